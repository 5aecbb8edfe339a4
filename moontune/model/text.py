"""The text transformer: parallel attention and MLP (or experts) behind one norm, partial rotary positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moontune.model.config import TextConfig
from moontune.model.kv_cache import KvCache
from moontune.model.layers import FusedAttention, Mlp, Shortcut, attention, layer_norm, normal_parameter
from moontune.model.moe import MoeMlp
from moontune.model.rope import rotary_angles, rotate


class Tau(nn.Module):
    """Scales of queries and of values, by what a token says and by how far along it is (Moondream 3).

    With f = gelu(qkv), per head: tau_q = tanh(wq f) + p and tau_v = tanh(wv f) + p, where
    p = 1/2 + sigmoid(alpha log(position + 1)).
    """

    def __init__(self, heads: int, qkv_dim: int) -> None:
        """Fresh: tokens say little, positions nothing."""
        super().__init__()
        self.wq = normal_parameter(heads, qkv_dim, std=0.02)
        self.wv = normal_parameter(heads, qkv_dim, std=0.02)
        self.alpha = nn.Parameter(torch.zeros(heads))

    def forward(self, qkv_BTC: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """tau_q and tau_v, [B, heads, T, 1] in qkv's dtype."""
        features_BTC = functional.gelu(qkv_BTC)
        place_BTH = 0.5 + (self.alpha.float() * (positions_BT + 1).float().log().unsqueeze(-1)).sigmoid()
        tau_q, tau_v = (
            (functional.linear(features_BTC, weight).tanh() + place_BTH.to(qkv_BTC.dtype)).transpose(1, 2).unsqueeze(-1)
            for weight in (self.wq, self.wv)
        )
        return tau_q, tau_v


class TextAttention(FusedAttention):
    """Attention with tau scales where the config has them."""

    def __init__(self, config: TextConfig) -> None:
        """Of the configured widths."""
        super().__init__(config.dim, config.heads, config.kv_heads)
        self.scaled = config.tau
        if config.tau:
            self.tau = Tau(config.heads, self.qkv.out_features)

    def project(self, h_BTD: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, scaled, not yet rotated."""
        qkv_BTC = self.qkv(h_BTD)
        q, k, v = self.split(qkv_BTC)
        if self.scaled:
            tau_q, tau_v = self.tau(qkv_BTC, positions_BT)
            q, v = q * tau_q, v * tau_v
        return q, k, v


class TextBlock(nn.Module):
    """h = ln(x); x + attn(h) + mlp(h)."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        """The block of this layer (0-based)."""
        super().__init__()
        self.layer = layer
        self.ln = layer_norm(config.dim)
        self.attn = TextAttention(config)
        moe = config.moe if config.is_moe(layer) else None
        self.mlp = Mlp(config.dim, config.ff_dim, config.dim) if moe is None else MoeMlp(config.dim, moe)
        self.shortcut = Shortcut(self.attn.proj)

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        angles: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None,
        cache: KvCache | None,
    ) -> Tensor:
        """[B, T, D] to the same shape; with a cache, keys and values are appended to it and S includes its past."""
        h_BTD = self.ln(x_BTD)
        q, k, v = self.attn.project(h_BTD, positions_BT)
        q, k = rotate(q, *angles), rotate(k, *angles)
        found = attention(q, k, v, mask_BTS) if cache is None else cache.attend(self.layer, q, k, v, mask_BTS)
        out_BTD = x_BTD + self.attn.merge(found) + self.mlp(h_BTD)
        beside_BTD = self.shortcut(h_BTD)
        return out_BTD if beside_BTD is None else out_BTD + beside_BTD


class Text(nn.Module):
    """Embeddings, blocks, and the language head with its own norm."""

    def __init__(self, config: TextConfig) -> None:
        """Embeddings and head are not tied."""
        super().__init__()
        self.config = config
        self.wte = normal_parameter(config.vocab_size, config.dim, std=0.02)
        self.blocks = nn.ModuleList(TextBlock(config, layer) for layer in range(config.layers))
        self.post_ln = layer_norm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """[B, T] ids to [B, T, D]."""
        return functional.embedding(ids_BT, self.wte)

    def hidden(self, x_BTD: Tensor, positions_BT: Tensor, mask_BTS: Tensor | None, cache: KvCache | None) -> Tensor:
        """Run the blocks; the result is read by the heads BEFORE post_ln."""
        angles = rotary_angles(positions_BT, self.config.rotary_dim, self.config.rope_theta)
        for block in self.blocks:
            x_BTD = block(x_BTD, positions_BT, angles, mask_BTS, cache)
        return x_BTD
