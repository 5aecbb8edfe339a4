"""An adapter from files of any form that moontune reads."""

from dataclasses import dataclass
from pathlib import Path

from moontune.checkpoints import MANIFEST_FILE
from moontune.checkpoints.folder import read_manifest
from moontune.errors import InvalidField, WrongBase
from moontune.model.adapter_forms.community import read_community
from moontune.model.adapter_forms.photon import read_photon
from moontune.model.adapter_forms.variant import read_variant
from moontune.model.adapter_tensors import AdapterTensors
from moontune.model.config import MoondreamConfig
from moontune.model.peft_folder import read_adapter
from moontune.model.tensor_file import only_file
from moontune.values.adapter import ImportKind


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """What an import found. inert: tensors that the form's own implementation never looks at; they were left out."""

    adapter: AdapterTensors
    inert: tuple[str, ...] = ()


def import_adapter(
    kind: ImportKind, folder: Path, config: MoondreamConfig, *, alpha: float | None = None, base_digest: str = ""
) -> Imported:
    """Read the adapter in a folder that holds the files of one form and no others.

    alpha: the scale's numerator, for the community's form alone; None is its default. base_digest: of the base that
    it is to act on; where a PEFT directory has a manifest, that must name the same.

    Raises InvalidField listing all that does not fit the base, WrongBase, or CheckpointCorrupt for damaged files.
    """
    if alpha is not None and kind is not ImportKind.COMMUNITY:
        raise InvalidField.of("alpha", alpha, f"unset: the {kind} form says its own scale")
    match kind:
        case ImportKind.PEFT:
            _check_manifest(folder, base_digest)
            return Imported(read_adapter(folder, config))
        case ImportKind.PHOTON:
            return Imported(read_photon(only_file(folder), config))
        case ImportKind.VARIANT:
            return Imported(*read_variant(only_file(folder), config))
        case ImportKind.COMMUNITY:
            return Imported(read_community(only_file(folder), config, alpha))


def _check_manifest(folder: Path, base_digest: str) -> None:
    if base_digest and (folder / MANIFEST_FILE).is_file():
        manifest = read_manifest(folder)
        if manifest.base_digest != base_digest:
            raise WrongBase(
                f"the adapter was made on base {manifest.base} ({manifest.base_digest}); this base is {base_digest}. "
                f"Leave {MANIFEST_FILE} out to try it here all the same"
            )
