"""Which layers of an architecture an adapter may act on, by name and shape."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import nn

from moontune.model.config import MoondreamConfig
from moontune.model.layers import Shortcut
from moontune.model.moe import ExpertLinear
from moontune.model.moondream import Moondream
from moontune.model.region import Region
from moontune.values.finetune import AttentionWiring, LoraSettings, LoraTarget

REGION = "region"
"""The region head's module."""

PATTERNS: Mapping[LoraTarget, str] = {
    LoraTarget.TEXT_ATTENTION: r"text\.blocks\.\d+\.(attn\.(qkv|proj)|shortcut)",
    LoraTarget.TEXT_MLP: r"text\.blocks\.\d+\.mlp\.(fc1|fc2)",
    LoraTarget.REGION: r"region\..*",
    LoraTarget.VISION: r"vision\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))|proj_mlp\.(fc1|fc2))",
}
"""Full module names of each target, among `adaptable_layers`."""

_NOT_WIRED = {AttentionWiring.ORDINARY: ".shortcut", AttentionWiring.BLOCK_INPUT: ".attn.proj"}
"""The layer of text attention that each wiring leaves alone."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of a linear layer. experts: how many of them are stacked, 0 in a plain layer; active: used per token."""

    in_features: int
    out_features: int
    experts: int = 0
    active: int = 1

    def rank(self, rank: int) -> int:
        """The rank of one expert's delta, so that the experts a token meets have `rank` together, or just above."""
        return -(-rank // self.active)

    def pair(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B at an adapter's rank: [r, in] and [out, r], in experts [E, r, in] and [E, out, r]."""
        stacked = (self.experts,) if self.experts else ()
        own = self.rank(rank)
        return (*stacked, own, self.in_features), (*stacked, self.out_features, own)


@lru_cache(maxsize=8)
def adaptable_layers(config: MoondreamConfig) -> Mapping[str, LayerShape]:
    """Every layer that some target covers, by module name, in the module's order."""
    with torch.device("meta"):
        module = Moondream(config)
    active = config.text.moe.experts_per_token if config.text.moe else 1
    return {
        name: _shape(layer, active)
        for name, layer in cast("Iterable[tuple[str, nn.Module]]", module.named_modules())
        if isinstance(layer, nn.Linear | ExpertLinear | Shortcut) and target_of(name) is not None
    }


def target_layers(config: MoondreamConfig, lora: LoraSettings) -> Mapping[str, LayerShape]:
    """The layers that an adapter of these settings acts on, all of them, by module name."""
    skipped = _NOT_WIRED[lora.wiring]
    return {
        name: shape
        for name, shape in adaptable_layers(config).items()
        if target_of(name) in lora.targets and not (name.startswith("text.") and name.endswith(skipped))
    }


def region_shapes(config: MoondreamConfig) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the region head's own tensors, by parameter name."""
    with torch.device("meta"):
        region = Region(config.region, config.text.dim)
    return {f"{REGION}.{name}": tuple(tensor.shape) for name, tensor in region.named_parameters()}


def target_of(layer: str) -> LoraTarget | None:
    """The target that covers a layer of this name."""
    return next((target for target, pattern in PATTERNS.items() if re.fullmatch(pattern, layer)), None)


def wiring_of(layers: Iterable[str]) -> AttentionWiring:
    """The wiring that an adapter on these layers has."""
    block_input = any(name.endswith(".shortcut") for name in layers)
    return AttentionWiring.BLOCK_INPUT if block_input else AttentionWiring.ORDINARY


def one_expression(layers: Iterable[str]) -> str:
    """A regular expression that matches these layers' names and no others; "" for none."""
    blocks_by_form: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        parts = re.split(r"\.(\d+)\.", layer, maxsplit=1)
        prefix, block, leaf = parts if len(parts) == 3 else (layer, "", "")
        blocks_by_form.setdefault((prefix, leaf), []).append(block)
    return "|".join(
        rf"{re.escape(prefix)}\.({'|'.join(blocks)})\.{re.escape(leaf)}" if leaf else re.escape(prefix)
        for (prefix, leaf), blocks in blocks_by_form.items()
    )


def _shape(layer: nn.Module, active: int) -> LayerShape:
    if isinstance(layer, ExpertLinear):
        experts, out_features, in_features = layer.weight.shape
        return LayerShape(in_features, out_features, experts, active)
    assert isinstance(layer, nn.Linear | Shortcut)
    return LayerShape(layer.in_features, layer.out_features)
