"""The text transformer: parallel attention and MLP behind one norm, partial rotary positions."""

from torch import Tensor, nn
from torch.nn import functional

from moontune.model.config import TextConfig
from moontune.model.kv_cache import KvCache
from moontune.model.layers import FusedAttention, Mlp, Shortcut, layer_norm, normal_parameter
from moontune.model.rope import rotary_angles, rotate


class TextBlock(nn.Module):
    """h = ln(x); x + attn(h) + mlp(h)."""

    def __init__(self, config: TextConfig) -> None:
        """A block of the configured widths."""
        super().__init__()
        self.ln = layer_norm(config.dim)
        self.attn = FusedAttention(config.dim, config.heads, config.kv_heads)
        self.mlp = Mlp(config.dim, config.ff_dim, config.dim)
        self.shortcut = Shortcut(config.dim)

    def forward(
        self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], mask_BTS: Tensor | None, cache: KvCache | None, layer: int
    ) -> Tensor:
        """[B, T, D] to the same shape; with a cache, keys and values are appended to it and S includes its past."""
        h_BTD = self.ln(x_BTD)
        q, k, v = self.attn.split(h_BTD)
        q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        out_BTD = x_BTD + self.attn.attend(q, k, v, mask_BTS) + self.mlp(h_BTD)
        beside_BTD = self.shortcut(h_BTD)
        return out_BTD if beside_BTD is None else out_BTD + beside_BTD


class Text(nn.Module):
    """Embeddings, blocks, and the language head with its own norm."""

    def __init__(self, config: TextConfig) -> None:
        """Embeddings and head are not tied."""
        super().__init__()
        self.config = config
        self.wte = normal_parameter(config.vocab_size, config.dim, std=0.02)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.post_ln = layer_norm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """[B, T] ids to [B, T, D]."""
        return functional.embedding(ids_BT, self.wte)

    def hidden(self, x_BTD: Tensor, positions_BT: Tensor, mask_BTS: Tensor | None, cache: KvCache | None) -> Tensor:
        """Run the blocks; the result is read by the heads BEFORE post_ln."""
        angles = rotary_angles(positions_BT, self.config.rotary_dim, self.config.rope_theta)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, angles, mask_BTS, cache, layer)
        return x_BTD
