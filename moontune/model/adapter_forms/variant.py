"""The "variant" form of Moondream's torch implementation: attention and MLP of every text layer, scale 1.

`text_model.transformer.h.{i}.{mixer.Wqkv,mixer.out_proj,mlp.fc1,mlp.fc2}.{A,B}`, A [r, in], B [out, r], in a `.pt` or a
safetensors file. That implementation computes out_proj's delta from the block's input, not from the attention's output:
such an adapter has the wiring `block_input`, and its out_proj is our layer `shortcut`. It wants all eight tensors of
every layer, and in a layer with experts never looks at the MLP's four; read here, such experts get a delta of nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moontune.model.adapter_tensors import AdapterTensors, LoraPair, Problem, adapter_of, paired, refuse, started
from moontune.model.config import MoondreamConfig
from moontune.model.lora_layers import adaptable_layers
from moontune.model.tensor_file import read_tensors

FILE = "final.pt"
_NAME = re.compile(
    r"(?:text_model\.transformer\.h|text\.blocks)\.(\d+)\."
    r"((?:mixer|attn)\.(?:Wqkv|qkv|out_proj|proj)|mlp\.fc1|mlp\.fc2)(?:\.parametrizations\.weight\.0)?\.(A|B)"
)
_OWN = {"Wqkv": "attn.qkv", "qkv": "attn.qkv", "out_proj": "shortcut", "proj": "shortcut", "fc1": "mlp.fc1"}
_OWN["fc2"] = "mlp.fc2"
_THEIRS = {"attn.qkv": "mixer.Wqkv", "shortcut": "mixer.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def read_variant(path: Path, config: MoondreamConfig) -> tuple[AdapterTensors, tuple[str, ...]]:
    """The adapter of a variant file, and the names of tensors that the form's own implementation never looks at.

    InvalidField lists tensors that are unknown, missing or misshapen.
    """
    halves: dict[str, Tensor] = {}
    problems: list[Problem] = []
    inert: list[str] = []
    for name, tensor in read_tensors(path).items():
        match = _NAME.fullmatch(name)
        if match is None or int(match[1]) >= config.text.layers:
            problems.append((name, "is not a delta of this architecture's attention or MLP"))
        elif config.text.is_moe(int(match[1])) and match[2].startswith("mlp."):
            inert.append(name)
        else:
            halves[f"text.blocks.{int(match[1])}.{_OWN[match[2].rpartition('.')[2]]}.{match[3].lower()}"] = tensor
    refuse(problems, f"{path.name} holds what this base has no place for")
    layers = paired(halves)
    return adapter_of(layers | _experts_at_rest(layers, config), None, {}, config), tuple(inert)


def write_variant(adapter: AdapterTensors, folder: Path, config: MoondreamConfig) -> None:
    """Write the file; InvalidField lists every tensor that the form cannot carry."""
    refuse(list(_beyond(adapter, config)), "the variant form cannot carry this adapter; export the PEFT form")
    state: dict[str, Tensor] = {}
    for index in range(config.text.layers):
        for layer, theirs in _THEIRS.items():
            pair = adapter.layers.get(f"text.blocks.{index}.{layer}")
            a, b = _zeros(config, layer, adapter.lora.rank) if pair is None else (pair.a, pair.b * adapter.scale)
            state[f"text_model.transformer.h.{index}.{theirs}.A"] = a.contiguous()
            state[f"text_model.transformer.h.{index}.{theirs}.B"] = b.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / FILE)


def _beyond(adapter: AdapterTensors, config: MoondreamConfig) -> list[Problem]:
    problems = [(name, "is not in the form") for name in adapter.full]
    for name, pair in adapter.layers.items():
        if name.endswith(".attn.proj"):
            problems.append((name, "is wired the ordinary way: the form computes this delta from the block's input"))
        elif pair.a.ndim == 3:
            problems.append((name, "is a delta of experts, which the form lacks"))
        elif re.sub(r"^text\.blocks\.\d+\.", "", name) not in _THEIRS:
            problems.append((name, "is not in the form"))
    return problems


def _experts_at_rest(layers: Mapping[str, LoraPair], config: MoondreamConfig) -> dict[str, LoraPair]:
    """Deltas of nothing, ready to be trained, for the experts that the form has no place for."""
    shapes = {name: shape for name, shape in adaptable_layers(config).items() if shape.experts}
    rank = max((pair.a.shape[0] for pair in layers.values()), default=1)
    generator = torch.Generator().manual_seed(0)
    at_rest: dict[str, LoraPair] = {}
    for name, shape in shapes.items():
        a, b = shape.pair(rank)
        at_rest[name] = LoraPair(started(a, generator), torch.zeros(b))
    return at_rest


def _zeros(config: MoondreamConfig, layer: str, rank: int) -> tuple[Tensor, Tensor]:
    """A delta of nothing: the form's reader wants every layer's."""
    text = config.text
    sizes = {
        "attn.qkv": (text.dim, (text.heads + 2 * text.kv_heads) * text.head_dim),
        "shortcut": (text.dim, text.dim),
        "mlp.fc1": (text.dim, text.ff_dim),
        "mlp.fc2": (text.ff_dim, text.dim),
    }
    in_dim, out_dim = sizes[layer]
    return torch.zeros(rank, in_dim), torch.zeros(out_dim, rank)
