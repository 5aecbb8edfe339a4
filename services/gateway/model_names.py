"""Which model a request names: `model`, `adapter`, or nothing (the base).

Moondream's client writes `moondream3-preview` for whatever base there is, alone or before a finetune's step.
"""

from moontune.errors import InvalidField, Unavailable
from moontune.values.model_ref import FINETUNE_ID, ModelRef
from services.gateway.upstream import Upstream

BASE_ALIAS = "moondream3-preview"


class ModelNames:
    """Resolves names; the base's own name is asked of inference once."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._base: str | None = None

    async def resolve(self, model: str | None, adapter: str | None) -> str:
        """The model string for inference.

        Raises:
            InvalidField: a string of another form, or two that name different steps.
        """
        ref = ModelRef.parse(model) if model is not None else None
        if adapter is not None:
            named = await self._adapter(adapter)
            if ref is not None and ref.finetune_id and (ref.finetune_id, ref.step) != (named.finetune_id, named.step):
                raise InvalidField.of("adapter", adapter, f"the same step as model, which is {model}")
            ref = ModelRef(ref.base if ref else BASE_ALIAS, named.finetune_id, named.step)
        if ref is None or (ref.finetune_id is None and ref.base == BASE_ALIAS):
            return await self.base()
        return str(ref)

    async def _adapter(self, adapter: str) -> ModelRef:
        """`<finetune_id>/<step>`, or `<finetune_id>/<checkpoint_id>`, which only the trainer can look up."""
        finetune_id, _, chosen = adapter.partition("/")
        if FINETUNE_ID.fullmatch(finetune_id) and FINETUNE_ID.fullmatch(chosen):  # both ids are ULIDs
            checkpoint = await self._upstream.get_checkpoint(finetune_id, chosen)
            return ModelRef(None, finetune_id, checkpoint.step)
        return ModelRef.parse_adapter(adapter)

    async def base(self) -> str:
        """The base that inference serves."""
        if self._base is None:
            models = await self._upstream.list_models()
            if not models:
                raise Unavailable("the inference service names no base model yet")
            self._base = models[0].policy.base
        return self._base
