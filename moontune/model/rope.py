"""Rotary position embedding on the first part of each head.

The rotated part is split in halves a, b; pair i turns by angle position * theta^(-2i / rotary_dim):
a' = a cos - b sin, b' = a sin + b cos. Upstream writes (a', b') interleaved; since queries and keys agree either way,
attention is the same, and only raw caches differ by a permutation.
"""

import torch
from torch import Tensor


def rotary_angles(positions_BT: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 [B, 1, T, rotary_dim / 2], ready to broadcast over heads."""
    exponents = torch.arange(0, rotary_dim, 2, device=positions_BT.device, dtype=torch.float32) / rotary_dim
    angles = positions_BT.to(torch.float32)[:, None, :, None] * theta**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, heads, T, head_dim]; computed in fp32, returned in x's dtype."""
    half = cos.shape[-1]
    a, b = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)
    return torch.cat((turned, x[..., 2 * half :]), dim=-1)
