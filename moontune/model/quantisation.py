"""Weights of few bits: what Moondream's int4 files and 8-bit expert files mean, and how to make the former.

int4, groups of GROUP in row-major order of the whole matrix: q = round(w / scale + zero), 0..15, and back
w = (q - zero) scale. Two groups share a byte: of n groups, row i of `packed` [n / 2, GROUP] holds group i in the high
half of each byte and group i + n / 2 in the low half; `scale` and `zero_point` are [n, 1].
8 bit: e4m3 values times one scale per row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 128
LEVELS = 15
"""Highest int4 value."""


@dataclass(frozen=True, slots=True, eq=False)
class Int4:
    """A matrix in int4. packed: uint8 [n / 2, GROUP]; scale, zero_point: [n, 1]."""

    packed: Tensor
    scale: Tensor
    zero_point: Tensor


def fits_int4(shape: tuple[int, ...]) -> bool:
    """Whether a matrix has an even number of whole groups, no group crossing a row."""
    return len(shape) == 2 and shape[1] % GROUP == 0 and shape[0] * shape[1] % (2 * GROUP) == 0


def int4_shapes(shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of `packed`, and of `scale` and `zero_point`, for a matrix [out, in]."""
    groups = shape[0] * shape[1] // GROUP
    return (groups // 2, GROUP), (groups, 1)


def to_int4(weight_OI: Tensor) -> Int4:
    """Quantise a matrix, each group over its own range. Groups of one value keep it exactly."""
    groups = weight_OI.float().reshape(-1, GROUP)
    low, high = groups.amin(1, keepdim=True).clamp(max=0.0), groups.amax(1, keepdim=True).clamp(min=0.0)
    scale = ((high - low) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    zero_point = -low / scale
    q = (groups / scale + zero_point).round().clamp(0, LEVELS).to(torch.uint8)
    upper, lower = q.chunk(2)
    return Int4(upper << 4 | lower, scale, zero_point)


def from_int4(stored: Int4, shape: tuple[int, ...]) -> Tensor:
    """The matrix in fp32."""
    q = torch.cat((stored.packed >> 4, stored.packed & 0x0F)).float()
    return ((q - stored.zero_point.float()) * stored.scale.float()).reshape(shape)


def from_fp8(weight: Tensor, row_scale: Tensor) -> Tensor:
    """e4m3 values [..., N, K] times their rows' scales [..., N], in fp32."""
    return weight.float() * row_scale.float().unsqueeze(-1)
