"""Adapters with every tensor drawn at random, of any settings."""

import torch

from moontune.model.adapter_tensors import AdapterTensors, LoraPair
from moontune.model.config import MoondreamConfig
from moontune.model.lora_layers import region_shapes, target_layers
from moontune.values.finetune import LoraSettings


def draw(config: MoondreamConfig, lora: LoraSettings, seed: int = 0, region: bool = False) -> AdapterTensors:
    """An adapter for a base of this config, with a region head of its own where asked."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    pairs = {name: shape.pair(lora.rank) for name, shape in target_layers(config, lora).items()}
    layers = {name: LoraPair(drawn(a), drawn(b)) for name, (a, b) in pairs.items()}
    full = {name: drawn(shape) for name, shape in region_shapes(config).items()} if region else {}
    return AdapterTensors(lora, layers, full)
