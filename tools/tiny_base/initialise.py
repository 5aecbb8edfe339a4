"""How the tiny base starts: what its coordinates need before they learn at all.

Smooth output rows: neighbouring bins begin with similar weights (a row is a Fourier function of its bin), otherwise a
thousand unrelated classes have to be learnt one by one. Positions of patches begin as two-dimensional sines.
"""

import math

import torch
from torch import Tensor

from moontune.model.moondream import Moondream


def initialise(model: Moondream, seed: int) -> None:
    """Overwrite the parameters that torch's defaults do not suit."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _sine_positions(model.vision.pos_emb, model.config.vision.grid)
        for features, highest in ((model.region.coord_features, 32.0), (model.region.size_features, 16.0)):
            # Stored as bf16 later: round now, so that the features never change.
            features.copy_(_log_uniform(features.shape, 0.4, highest, generator).bfloat16())
        smooth_rows(model.region.coord_decoder.fc2, model.config.region.bins, generator)
        smooth_rows(model.region.size_decoder.fc2, model.config.region.bins, generator)
        for block in model.text.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.mul_(1.0 / math.sqrt(2 * len(model.text.blocks)))
    model.region.coord_features.requires_grad_(False)
    model.region.size_features.requires_grad_(False)


def smooth_rows(layer: torch.nn.Linear, bins: int, generator: torch.Generator) -> None:
    """Row k = sqrt(2 / d) cos(2 pi f k / bins + phase), f log-uniform 0.4..60 per input, damped at high f."""
    width = layer.in_features
    for start in range(0, layer.out_features, bins):
        f = _log_uniform((width,), 0.4, 60.0, generator).abs()
        phase = torch.rand(width, generator=generator) * 2 * math.pi
        k = torch.arange(bins)[:, None] / bins
        rows = math.sqrt(2 / width) * torch.cos(2 * math.pi * f * k + phase) * torch.exp(-0.5 * (f / 40) ** 2)
        layer.weight[start : start + bins] = rows
    layer.bias.zero_()


def _sine_positions(pos_emb: Tensor, grid: int) -> None:
    """Half of the width says the row, half the column: sines and cosines of falling frequency, times 0.5."""
    quarter = pos_emb.shape[-1] // 4
    frequency = math.pi * torch.exp(torch.linspace(math.log(0.5), math.log(grid / 2), quarter))
    angle = (torch.arange(grid) + 0.5)[:, None] / grid * frequency
    axis = torch.cat((angle.sin(), angle.cos()), -1)
    rows = axis[:, None, :].expand(grid, grid, -1)
    columns = axis[None, :, :].expand(grid, grid, -1)
    pos_emb.zero_()
    pos_emb[0, :, : 4 * quarter] = 0.5 * torch.cat((rows, columns), -1).flatten(0, 1)


def _log_uniform(shape: torch.Size | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Magnitudes log-uniform in low..high, signs even."""
    spread = torch.rand(shape, generator=generator) * math.log(high / low) + math.log(low)
    return spread.exp() * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
