"""The trainer's second component in the model worker: adapters from and to other forms. Torch lives here.

It has a module tree of its own over the base's weights and its own thread, so that an export of gigabytes neither sees
the learner's adapters nor holds up a step.
"""

from pathlib import Path

from moontune.errors import Cancelled
from moontune.model.adapter_forms import export_adapter, export_full, import_adapter
from moontune.model.base_model import BaseModel, share_base
from moontune.model.full_weights import is_full
from moontune.model.peft_folder import read_adapter, write_adapter
from moontune.serving.worker_protocol import CallContext
from services.trainer.orders import FormRead, ReadForm, WriteForm


def build(base: BaseModel, options: object) -> "Forms":
    """The component's factory; it has no options."""
    del options
    return Forms(share_base(base))


class Forms:
    """Reads and writes adapters in the forms that moontune knows."""

    worker_threads = 1

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    def read(self, ctx: CallContext, order: ReadForm) -> FormRead:
        """Turn an import's files into a PEFT folder.

        Raises:
            InvalidField: with the list of tensors that the base cannot take. WrongBase, CheckpointCorrupt.
        """
        if ctx.cancelled():
            raise Cancelled("the caller left; nothing was imported")
        found = import_adapter(
            order.kind, Path(order.folder), self._base.config, alpha=order.alpha, base_digest=self._base.digest
        )
        write_adapter(found.adapter, Path(order.into), self._base.config, self._base.name)
        return FormRead(found.adapter.lora, found.adapter.kind, found.inert)

    def write(self, ctx: CallContext, order: WriteForm) -> None:
        """Write a checkpoint's adapter in another form; InvalidField lists the tensors that the form cannot carry."""
        if ctx.cancelled():
            raise Cancelled("the caller left; nothing was exported")
        folder, into = Path(order.folder), Path(order.into)
        if is_full(folder):
            export_full(order.kind, folder, self._base, into)
        else:
            export_adapter(order.kind, read_adapter(folder, self._base.config), self._base, into)
