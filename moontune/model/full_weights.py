"""The files of a finetune of kind full: whole tensors in the place of an adapter's, under the same two names.

adapter_model.safetensors holds every trained tensor by the base's own parameter name, in fp32; adapter_config.json says
`"weights": "full"`, so that nobody takes it for a PEFT directory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from moontune.checkpoints.digest import ADAPTER_CONFIG_FILE, ADAPTER_MODEL_FILE
from moontune.errors import CheckpointCorrupt
from moontune.model.config import MoondreamConfig
from moontune.model.lora_layers import REGION
from moontune.model.moondream import Moondream
from moontune.values.finetune import LoraSettings, LoraTarget


def trained_whole(name: str, lora: LoraSettings) -> bool:
    """Whether a finetune of kind full trains this parameter: text and region always, vision where it is a target."""
    return LoraTarget.VISION in lora.targets or name.startswith(("text.", f"{REGION}."))


def write_full(tensors: Mapping[str, Tensor], lora: LoraSettings, folder: Path, base_name: str) -> None:
    """Write the two files; `folder` is made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    safetensors_torch.save_file(stored, folder / ADAPTER_MODEL_FILE, metadata={"format": "pt"})
    config = {
        "weights": "full",
        "base_model_name_or_path": base_name,
        "targets": [str(target) for target in lora.targets],
    }
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True))


def is_full(folder: Path) -> bool:
    """Whether the folder's config says that it holds whole tensors; false too where there is no config to be read."""
    return _config(folder).get("weights") == "full"


def load_full(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copy stored tensors into these parameters; CheckpointCorrupt, naming the first fault, if they are others."""
    stored = _stored(folder, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


def read_full(folder: Path, config: MoondreamConfig) -> dict[str, Tensor]:
    """The tensors of a finetune of this architecture by parameter name, mapped; CheckpointCorrupt for any others."""
    lora = LoraSettings(targets=full_targets(folder))
    with torch.device("meta"):
        parameters = dict(Moondream(config).named_parameters())
    return _stored(folder, {name: tuple(p.shape) for name, p in parameters.items() if trained_whole(name, lora)})


def _stored(folder: Path, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    path = folder / ADAPTER_MODEL_FILE
    try:
        stored = safetensors_torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{path} is not a whole safetensors file: {error}") from error
    if others := set(stored) ^ set(wanted):
        raise CheckpointCorrupt(f"{path} does not hold the tensors of this finetune: {min(others)}")
    for name, shape in wanted.items():
        if tuple(stored[name].shape) != shape:
            raise CheckpointCorrupt(f"{path}: {name} has shape {list(stored[name].shape)}, not {list(shape)}")
    return stored


def full_targets(folder: Path) -> tuple[LoraTarget, ...]:
    """The targets that the stored finetune was made with."""
    targets = _config(folder).get("targets")
    if not isinstance(targets, list):
        raise CheckpointCorrupt(f"{folder / ADAPTER_CONFIG_FILE} names no targets")
    return tuple(LoraTarget(str(target)) for target in cast("list[object]", targets))


def _config(folder: Path) -> dict[str, object]:
    try:
        found = cast("object", json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}
