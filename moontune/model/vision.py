"""The vision tower: crops to features, and features of all crops to the image's tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moontune.model.config import VisionConfig
from moontune.model.layers import FusedAttention, Mlp, layer_norm, normal_parameter


class VisionBlock(nn.Module):
    """Pre-norm transformer block with full attention."""

    def __init__(self, config: VisionConfig) -> None:
        """A block of the configured widths."""
        super().__init__()
        self.ln1 = layer_norm(config.dim)
        self.attn = FusedAttention(config.dim, config.heads, config.heads)
        self.ln2 = layer_norm(config.dim)
        self.mlp = Mlp(config.dim, config.ff_dim, config.dim)

    def forward(self, x_NPE: Tensor) -> Tensor:
        """[N, P, E] to the same shape."""
        q, k, v = self.attn.split(self.attn.qkv(self.ln1(x_NPE)))
        x_NPE = x_NPE + self.attn.attend(q, k, v, None)
        return x_NPE + self.mlp(self.ln2(x_NPE))


class Vision(nn.Module):
    """Patches, transformer, and the projection to the text width."""

    def __init__(self, config: VisionConfig, text_dim: int) -> None:
        """`text_dim` is the width D of the image tokens."""
        super().__init__()
        self.config = config
        self.patch_emb = nn.Linear(config.channels * config.patch_size**2, config.dim)
        self.pos_emb = normal_parameter(1, config.tokens, config.dim, std=0.02)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))
        self.post_ln = layer_norm(config.dim)
        self.proj_mlp = Mlp(2 * config.dim, config.projection_inner_dim, text_dim)

    def encode_crops(self, crops_NCHW: Tensor) -> Tensor:
        """Features [N, P, E] of normalised crops (-1..1), patches in row-major order."""
        x_NPE = self.patch_emb(self._patches(crops_NCHW).to(self.pos_emb.dtype)) + self.pos_emb
        for block in self.blocks:
            x_NPE = block(x_NPE)
        return self.post_ln(x_NPE)

    def project(self, global_BPE: Tensor, local_BPE: Tensor) -> Tensor:
        """Image tokens [B, P, D] of the features of the whole image and of its crops, stitched and pooled."""
        return self.proj_mlp(torch.cat((global_BPE, local_BPE), dim=-1))

    def stitch(self, features_NPE: Tensor, tiling: tuple[int, int]) -> Tensor:
        """Join the local crops' features (row-major, N = rows * columns) and pool them to one grid [1, P, E].

        Neighbouring crops overlap by twice the margin; each keeps its own side of every seam.
        """
        rows, columns = tiling
        grid, margin = self.config.grid, self.config.overlap_margin
        tiles = features_NPE.view(rows, columns, grid, grid, -1)
        lines = [
            torch.cat([_between_seams(tiles[row, col], col, columns, margin, 1) for col in range(columns)], dim=1)
            for row in range(rows)
        ]
        whole = torch.cat([_between_seams(line, row, rows, margin, 0) for row, line in enumerate(lines)], dim=0)
        pooled = functional.adaptive_avg_pool2d(whole.permute(2, 0, 1), (grid, grid))
        return pooled.flatten(1).transpose(0, 1).unsqueeze(0)

    def _patches(self, crops_NCHW: Tensor) -> Tensor:
        """[N, P, C * patch * patch], channel-major within a patch."""
        size, grid = self.config.patch_size, self.config.grid
        tiles = crops_NCHW.view(crops_NCHW.shape[0], self.config.channels, grid, size, grid, size)
        return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def crops_per_pass(device: torch.device) -> int:
    """Most crops in one pass of the tower: on the CPU what keeps activations in its caches, else what bounds memory."""
    return 3 if device.type == "cpu" else 64


def _between_seams(tile: Tensor, index: int, count: int, margin: int, axis: int) -> Tensor:
    """Drop the margin on each side of `axis` where a neighbour follows; the image's own borders stay."""
    start = margin if index > 0 else 0
    stop = tile.shape[axis] - (margin if index < count - 1 else 0)
    return tile.narrow(axis, start, stop - start)
