"""Names of policies: `<base>/<finetune_id>@<step>`."""

import re
from dataclasses import dataclass

from moontune.errors import InvalidField

FINETUNE_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
"""A ULID in Crockford's base 32."""

_MODEL = re.compile(r"(?P<base>.+)/(?P<finetune>[^/@]+)@(?P<step>\d{1,9})")
_ADAPTER = re.compile(r"(?P<finetune>[^/@]+)/(?P<step>\d{1,9})")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """What a model string names: a base alone, or a finetune's step on it.

    The base part of a finetune's string is the base's own name or an alias of it: Moondream's client writes
    `moondream3-preview` whatever base the finetune has. `base` is None when the string was an `adapter` field.
    """

    base: str | None
    finetune_id: str | None = None
    step: int | None = None

    @classmethod
    def parse(cls, text: str, field: str = "model") -> "ModelRef":
        """Read `<base>` or `<base>/<finetune_id>@<step>`; the base may itself contain `/`."""
        if match := _MODEL.fullmatch(text):
            return cls(match["base"], _checked_id(match["finetune"], field, text), int(match["step"]))
        if not text or "@" in text:
            raise InvalidField.of(field, text, "<base> or <base>/<finetune_id>@<step>")
        return cls(text)

    @classmethod
    def parse_adapter(cls, text: str, field: str = "adapter") -> "ModelRef":
        """Read the older `<finetune_id>/<step>` form."""
        match = _ADAPTER.fullmatch(text)
        if match is None:
            raise InvalidField.of(field, text, "<finetune_id>/<step>")
        return cls(None, _checked_id(match["finetune"], field, text), int(match["step"]))

    def __str__(self) -> str:
        """The model string."""
        return f"{self.base}/{self.finetune_id}@{self.step}" if self.finetune_id else str(self.base)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The exact weights an answer came from.

    finetune_id is "" and step 0 for the bare base. adapter_digest is `sha256:<64 hex>`, or "" where no adapter
    acts; a finetune's step 0 equals the base and has a digest of its own.
    """

    base: str
    base_digest: str
    finetune_id: str = ""
    step: int = 0
    adapter_digest: str = ""


def _checked_id(finetune_id: str, field: str, given: str) -> str:
    if not FINETUNE_ID.fullmatch(finetune_id):
        raise InvalidField.of(field, given, "a finetune id of 26 characters 0-9 A-Z (a ULID) before the step")
    return finetune_id
