"""The region head: numbers in 0..1 in as Fourier features, bins out as logits."""

import math

import torch
from torch import Tensor, nn

from moontune.model import codec
from moontune.model.config import RegionConfig
from moontune.model.layers import Mlp, layer_norm, normal_parameter


class Region(nn.Module):
    """Encoders and decoders of coordinates and of sizes (width, height)."""

    def __init__(self, config: RegionConfig, text_dim: int) -> None:
        """`text_dim` is the width D of the text transformer."""
        super().__init__()
        self.config = config
        self.coord_features = normal_parameter(1, config.coord_feature_dim // 2, std=10.0)
        self.size_features = normal_parameter(2, config.size_feature_dim // 2, std=1.0)
        self.coord_encoder = nn.Linear(config.coord_feature_dim, text_dim)
        self.size_encoder = nn.Linear(config.size_feature_dim, text_dim)
        self.coord_decoder = _decoder(config, text_dim, config.bins)
        self.size_decoder = _decoder(config, text_dim, 2 * config.bins)
        if config.norm:
            self.ln = layer_norm(text_dim)

    def embed_coords(self, values: Tensor) -> Tensor:
        """Coordinates [...] in 0..1 to embeddings [..., D]."""
        return self.coord_encoder(_fourier(values.unsqueeze(-1), self.coord_features))

    def embed_sizes(self, sizes: Tensor) -> Tensor:
        """(width, height) pairs [..., 2] in 0..1 to embeddings [..., D]. The features see the sizes themselves."""
        return self.size_encoder(_fourier(sizes, self.size_features))

    def coord_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., bins]."""
        return self.coord_decoder(self._normed(hidden))

    def size_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., 2, bins]: widths first."""
        return self.size_decoder(self._normed(hidden)).unflatten(-1, (2, self.config.bins))

    def embed_coord_bins(self, bins: Tensor) -> Tensor:
        """Embeddings of decided coordinate bins: of the value that the bin decodes to."""
        return self.embed_coords(codec.coord_values(bins, self.config.bins))

    def embed_size_bins(self, bins: Tensor) -> Tensor:
        """Embeddings of decided (width, height) bins [..., 2]."""
        return self.embed_sizes(codec.size_values(bins, self.config.bins))

    def _normed(self, hidden: Tensor) -> Tensor:
        return self.ln(hidden) if self.config.norm else hidden


def _decoder(config: RegionConfig, text_dim: int, out_dim: int) -> nn.Module:
    """An MLP (Moondream 2) or one linear layer (Moondream 3)."""
    return nn.Linear(text_dim, out_dim) if config.inner_dim is None else Mlp(text_dim, config.inner_dim, out_dim)


def _fourier(values: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines and sines of 2 pi v W for v [..., n], W [n, F/2]: [..., F]."""
    phase = 2 * math.pi * values.to(frequencies.dtype) @ frequencies
    return torch.cat((phase.cos(), phase.sin()), dim=-1)
