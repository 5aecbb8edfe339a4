"""A base with an adapter merged into its weights, as a base's folder: full precision, or int4 in Moondream 2's layout.

Merged: W + scale B A, per expert in stacked layers, computed in fp32 and kept in the dtype that the base is stored in.
int4: the linear layers of the text blocks in groups of 128 (see `quantisation`); the rest as merged. The region head
and the vision tower keep their precision, as in the published int4 weights' text-only setting.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from moontune.model.adapter_tensors import AdapterTensors, refuse
from moontune.model.base_folders import CONFIG_FILE, TOKENIZER_FILE
from moontune.model.base_model import BaseModel
from moontune.model.full_weights import read_full
from moontune.model.lora_layers import target_of
from moontune.model.moondream import Moondream
from moontune.model.quantisation import fits_int4, to_int4
from moontune.model.shards import write_shards
from moontune.model.weight_files import Stored, WeightFiles
from moontune.model.weight_names import has_prefix
from moontune.model.weights import Form, Recipe, assemble, plan
from moontune.values.finetune import LoraSettings, LoraTarget

_STORED_AS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_INT4_TARGETS = (LoraTarget.TEXT_ATTENTION, LoraTarget.TEXT_MLP)


def write_merged(adapter: AdapterTensors, base: BaseModel, folder: Path, *, int4: bool = False) -> None:
    """Write config, tokenizer and merged weights; the folder loads as a base and in the reference implementation.

    Names are the reference's current ones, behind `model.` where the base's own file has that prefix. Raises
    InvalidField for an adapter that is wired from the block's input: no weight can hold that delta.
    """
    beside = [(name, "adds to the block, not to a weight") for name in adapter.layers if name.endswith(".shortcut")]
    refuse(beside, "an adapter wired from the block's input cannot be merged; export the PEFT or the variant form")
    adapter.check_fits(base.config)
    _write(adapter, base, folder, int4)


def write_merged_full(finetune: Path, base: BaseModel, folder: Path, *, int4: bool = False) -> None:
    """The same of a finetune of kind full: its tensors in the place of the base's, in the base's dtypes.

    Raises CheckpointCorrupt where its files are damaged or not of this base.
    """
    tensors = read_full(finetune, base.config)
    _write(AdapterTensors(LoraSettings(), {}, tensors), base, folder, int4)


def _write(adapter: AdapterTensors, base: BaseModel, folder: Path, int4: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(_merged(adapter, base, int4), folder)
    for name in (CONFIG_FILE, TOKENIZER_FILE):
        shutil.copyfile(base.path / name, folder / name)


def merged_weight(weight: Tensor, layer: str, adapter: AdapterTensors) -> Tensor:
    """A layer's weight [out, in] (of experts [E, out, in]) with its delta, in fp32."""
    pair = adapter.layers[layer]
    return weight.float() + adapter.scale * (pair.b @ pair.a)


def _merged(adapter: AdapterTensors, base: BaseModel, int4: bool) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the merged weights by its stored name, one parameter at a time."""
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in Moondream(base.config).named_parameters()}
    with WeightFiles(base.path, "cpu") as files:
        prefix = "model." if all(has_prefix(name) for name in files.stored) else ""
        for name, recipe in plan(shapes, files.stored, base.path).items():
            own = adapter.full.get(name)
            value = assemble(files, recipe, shapes[name]) if own is None else own
            layer = name.removesuffix(".weight")
            if name.endswith(".weight") and layer in adapter.layers:
                value = merged_weight(value, layer, adapter)
            if int4 and name.endswith(".weight") and target_of(layer) in _INT4_TARGETS and fits_int4(shapes[name]):
                packed = to_int4(value)
                yield f"{prefix}{name}.packed", packed.packed
                yield f"{prefix}{name}.scale", packed.scale
                yield f"{prefix}{name}.zero_point", packed.zero_point
            else:
                yield prefix + name, value.to(_kept_dtype(recipe, files.stored))


def _kept_dtype(recipe: Recipe, stored: Mapping[str, Stored]) -> torch.dtype:
    """What the base is stored in; bf16 in place of what has fewer bits."""
    if recipe.form in (Form.INT4, Form.FP8):
        return torch.bfloat16
    return _STORED_AS[stored[recipe.names[0]].dtype]
