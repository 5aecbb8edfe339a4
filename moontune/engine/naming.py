"""Model strings as one process reads them. No torch: fronts use it."""

import re
from collections.abc import Sequence

from moontune.errors import ModelNotFound
from moontune.values.model_ref import FINETUNE_ID, ModelRef

_ADAPTER = re.compile(rf"{FINETUNE_ID.pattern}/\d{{1,9}}")


def read_model(text: str, base: str, aliases: Sequence[str], field: str) -> ModelRef:
    """What a model string names in a process that serves `base`.

    `<base>` must be the base or one of `aliases`, alone or in front of a finetune: a string that names another base is
    a mistake, not a request for this one. `<finetune_id>/<step>` is read too.

    Raises:
        InvalidField: the string is of none of these forms.
        ModelNotFound: it names another base.
    """
    if _ADAPTER.fullmatch(text):
        return ModelRef.parse_adapter(text, field)
    ref = ModelRef.parse(text, field)
    if ref.base != base and ref.base not in aliases:
        raise ModelNotFound(
            f"{field} is {text!r}; this process serves {base!r}: name it, or <base>/<finetune_id>@<step>",
            metadata={"model": text, "base": base},
        )
    return ref
