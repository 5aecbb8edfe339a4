"""Photon's form: one `.pt` file, `{"lora_state_dict": {name: tensor}}`, MLPs and experts alone, scale 1.

Dense layers 0.. are `text_lora.dense.{i}.{up_a,up_b,down_a,down_b}`, layers with experts
`text_lora.moe.{j}....` counted from the first of them; up is fc1, down is fc2. Shapes are LoraPair's. Photon registers
the same tensors once more under `_text.`; either is read, and where both are there they must be equal.
Source: kestrel 0.9.1, observed names and shapes.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from moontune.errors import InvalidField
from moontune.model.adapter_tensors import AdapterTensors, Problem, adapter_of, paired, refuse
from moontune.model.config import MoondreamConfig
from moontune.model.lora_layers import target_of
from moontune.model.tensor_file import read_tensors
from moontune.values.finetune import LoraTarget

FILE = "lora.pt"
STATE_KEY = "lora_state_dict"
_NAME = re.compile(r"(?:(?:text_lora|_text)\.)+(dense|moe)\.(\d+)\.(up|down)_(a|b)")
_LAYERS = {"fc1": "up", "fc2": "down"}


def read_photon(path: Path, config: MoondreamConfig) -> AdapterTensors:
    """The adapter of a Photon file; InvalidField lists what it holds beside MLP deltas, and what does not fit."""
    halves: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for name, tensor in read_tensors(path, STATE_KEY).items():
        match = _NAME.fullmatch(name)
        own = None if match is None else _own_name(config, *match.groups())
        if own is None:
            problems.append((name, "is not an MLP delta of this architecture"))
        elif own in halves and not torch.equal(halves[own], tensor):
            problems.append((name, "differs from its other copy"))
        else:
            halves[own] = tensor
    refuse(problems, f"{path.name} holds what this base has no place for")
    return adapter_of(paired(halves), None, {}, config)


def write_photon(adapter: AdapterTensors, folder: Path, config: MoondreamConfig) -> None:
    """Write the file; InvalidField lists every tensor that the form cannot carry."""
    beyond = [name for name in adapter.layers if target_of(name) is not LoraTarget.TEXT_MLP]
    refuse(
        [(name, "is not an MLP of the text model") for name in (*beyond, *adapter.full)],
        "Photon's form carries MLP and expert deltas alone; export the PEFT form",
    )
    each = config.text.moe.experts_per_token if config.text.moe else 1
    if adapter.lora.rank % each:
        allowed = f"a multiple of {each} in Photon's form, where a token's {each} experts share the rank"
        raise InvalidField.of("adapter.rank", adapter.lora.rank, allowed)
    state: dict[str, Tensor] = {}
    for layer, pair in adapter.layers.items():
        name = _photon_name(config, layer)
        state[f"{name}_a"] = pair.a.contiguous()
        state[f"{name}_b"] = (pair.b * adapter.scale).contiguous()  # the form has no alpha
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({STATE_KEY: state}, folder / FILE)


def _first_moe(config: MoondreamConfig) -> int:
    """Number of the first layer with experts; the number of layers where there is none."""
    return config.text.moe.start_layer if config.text.moe else config.text.layers


def _own_name(config: MoondreamConfig, kind: str, number: str, part: str, half: str) -> str | None:
    first = _first_moe(config)
    index = int(number) + (first if kind == "moe" else 0)
    if not (index < first if kind == "dense" else first <= index < config.text.layers):
        return None
    leaf = next(leaf for leaf, name in _LAYERS.items() if name == part)
    return f"text.blocks.{index}.mlp.{leaf}.{half}"


def _photon_name(config: MoondreamConfig, layer: str) -> str:
    _, _, number, _, leaf = layer.split(".")
    index, first = int(number), _first_moe(config)
    place = f"dense.{index}" if index < first else f"moe.{index - first}"
    return f"text_lora.{place}.{_LAYERS[leaf]}"
