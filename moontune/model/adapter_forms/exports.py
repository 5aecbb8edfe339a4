"""An adapter to files of any form that moontune writes."""

from pathlib import Path

from moontune.errors import InvalidField
from moontune.model.adapter_forms.photon import write_photon
from moontune.model.adapter_forms.variant import write_variant
from moontune.model.adapter_tensors import AdapterTensors
from moontune.model.base_model import BaseModel
from moontune.model.merged import write_merged, write_merged_full
from moontune.model.peft_folder import write_adapter
from moontune.values.adapter import ExportKind


def export_adapter(kind: ExportKind, adapter: AdapterTensors, base: BaseModel, into: Path) -> None:
    """Write the form's files into a folder, made where missing.

    peft: the two adapter files; the caller adds the checkpoint's manifest. photon, variant: one `.pt`. merged, int4: a
    base's folder, which loads as one. Raises InvalidField listing every tensor that the form cannot carry.
    """
    match kind:
        case ExportKind.PEFT:
            write_adapter(adapter, into, base.config, base.name)
        case ExportKind.PHOTON:
            write_photon(adapter, into, base.config)
        case ExportKind.VARIANT:
            write_variant(adapter, into, base.config)
        case ExportKind.MERGED:
            write_merged(adapter, base, into)
        case ExportKind.INT4:
            write_merged(adapter, base, into, int4=True)


def export_full(kind: ExportKind, finetune: Path, base: BaseModel, into: Path) -> None:
    """Write the folder of a finetune of kind full in a form that holds whole weights; InvalidField for the others."""
    if kind not in (ExportKind.MERGED, ExportKind.INT4):
        allowed = "merged or int4 (or peft, the files as they are): it has whole weights and no deltas"
        raise InvalidField.of("kind", str(kind), f"for a finetune of kind full, {allowed}")
    write_merged_full(finetune, base, into, int4=kind is ExportKind.INT4)
