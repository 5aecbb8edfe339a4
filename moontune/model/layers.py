"""The two building blocks that vision, text and region share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-5
"""Of every LayerNorm of the family."""


class Mlp(nn.Module):
    """fc2(gelu_tanh(fc1(x))), biases in both."""

    def __init__(self, in_dim: int, inner_dim: int, out_dim: int) -> None:
        """Widths of input, hidden layer and output."""
        super().__init__()
        self.fc1 = nn.Linear(in_dim, inner_dim)
        self.fc2 = nn.Linear(inner_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] to [..., out_dim]."""
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class Shortcut(nn.Module):
    """A way past a block's attention that only an adapter can use: bare, it adds nothing and holds no weights.

    "Variant" adapters of Moondream's torch implementation compute the delta of the attention output from the block's
    input. That is a linear layer beside the attention, not a change of its output projection.
    """

    def __init__(self, beside: nn.Linear) -> None:
        """`beside` is the projection whose widths and device it shares."""
        super().__init__()
        self.in_features = self.out_features = beside.out_features
        self._beside = (beside,)  # in a tuple, so that it is no part of this module

    @property
    def weight(self) -> Tensor:
        """Not its own: the neighbour's, where peft reads the device that an adapter's layer goes to."""
        return self._beside[0].weight

    def forward(self, h_BTD: Tensor) -> Tensor | None:
        """None: nothing to add. An adapter's layer in its place gives what to add to the block's output."""
        del h_BTD


class FusedAttention(nn.Module):
    """The two projections of multi-head attention: one for query, key and value (in that order), one for the output.

    What happens between them (rotary positions, masks, a cache) is the caller's.
    """

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        """`kv_heads` below `heads` is grouped-query attention."""
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, qkv_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output of `qkv` as queries [B, heads, T, head_dim], keys and values [B, kv_heads, T, head_dim]."""
        batch, length, _ = qkv_BTC.shape
        parts = qkv_BTC.view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        past_k = self.heads + self.kv_heads
        return parts[:, : self.heads], parts[:, self.heads : past_k], parts[:, past_k:]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """Softmax attention and the output projection: [B, T, D]."""
        return self.merge(attention(q, k, v, mask_BTS))

    def merge(self, out: Tensor) -> Tensor:
        """What the heads found, [B, heads, T, head_dim], through the output projection: [B, T, D]."""
        return self.proj(out.transpose(1, 2).flatten(2))


def attention(q: Tensor, k: Tensor, v: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Softmax attention, [B, heads, T, head_dim]; True in the mask means may attend."""
    mask = None if mask_BTS is None else mask_BTS.unsqueeze(1)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=k.shape[1] != q.shape[1])


def layer_norm(dim: int) -> nn.LayerNorm:
    """A LayerNorm with the family's epsilon."""
    return nn.LayerNorm(dim, eps=NORM_EPSILON)


def normal_parameter(*shape: int, std: float) -> nn.Parameter:
    """A free parameter drawn from N(0, std^2) with torch's generator."""
    return nn.Parameter(torch.randn(shape) * std)
