"""A base model of the Moondream architecture (2, 3, tiny): vision, text and region, and the calls that others use.

Sampler and learner run the same `hidden`; it takes any positions and any boolean mask, with or without a cache.
Heads are computed in fp32 whatever the body's dtype: `cast_body` leaves them alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from moontune.imaging.crops import ImageCrops
from moontune.model.config import GoOn, MoondreamConfig
from moontune.model.kv_cache import KvCache
from moontune.model.region import Region
from moontune.model.text import Text
from moontune.model.vision import Vision


class Moondream(nn.Module):
    """Parameters carry Moondream's names (`text.blocks.0.attn.qkv.weight`), so published weights load as they are."""

    def __init__(self, config: MoondreamConfig) -> None:
        """Build with random parameters, in torch's default dtype and on its default device."""
        super().__init__()
        self.config = config
        self.vision = Vision(config.vision, config.text.dim)
        self.text = Text(config.text)
        self.region = Region(config.region, config.text.dim)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.text.wte.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the body: hidden states and caches."""
        return self.text.wte.dtype

    def cast_body(self, dtype: torch.dtype) -> "Moondream":
        """Cast all but the heads (language head with its norm, region head), which stay fp32; returns self."""
        self.to(dtype)
        for head in (self.text.post_ln, self.text.lm_head, self.region):
            head.float()
        return self

    def encode_image(self, crops: ImageCrops) -> Tensor:
        """Image tokens [P, D] of one image: the global crop and the local ones."""
        return self.join_crops(self.encode_pixels(torch.from_numpy(crops.pixels).to(self.device)), crops.tiling)

    def encode_pixels(self, pixels_NHWC: Tensor) -> Tensor:
        """Vision features [N, P, E] of uint8 crops."""
        return self.encode_crops(normalise(pixels_NHWC, self.vision.pos_emb.dtype))

    def join_crops(self, features_NPE: Tensor, tiling: tuple[int, int]) -> Tensor:
        """Image tokens [P, D] of one image's crops, the global one first."""
        # One tile is the global crop itself, so it is not there a second time.
        local_BPE = features_NPE[:1] if len(features_NPE) == 1 else self.vision.stitch(features_NPE[1:], tiling)
        return self.project(features_NPE[:1], local_BPE)[0]

    def encode_crops(self, crops_NCHW: Tensor) -> Tensor:
        """Vision features [N, P, E] of normalised crops."""
        return self.vision.encode_crops(crops_NCHW)

    def project(self, global_BPE: Tensor, local_BPE: Tensor) -> Tensor:
        """Image tokens [B, P, D]; `local_BPE` is `global_BPE` again for images of one tile."""
        return self.vision.project(global_BPE, local_BPE)

    def embed_tokens(self, ids_BT: Tensor) -> Tensor:
        """Token embeddings [B, T, D]."""
        return self.text.embed(ids_BT)

    def hidden(
        self,
        embeds_BTD: Tensor,
        positions_BT: Tensor,
        mask_BTS: Tensor | None = None,
        cache: KvCache | None = None,
        valid_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] before the final norm.

        mask_BTS: True where a query may attend; every row needs at least one True. With a cache, S is its length
        before the call plus T, and the new positions are appended, those False in valid_BT as padding. No mask:
        causal among the new positions, and all valid slots of the cache.
        """
        length = embeds_BTD.shape[1]
        if mask_BTS is None:
            mask_BTS = causal_mask(length, cache, self.device)
        hidden_BTD = self.text.hidden(embeds_BTD.to(self.dtype), positions_BT, mask_BTS, cache)
        if cache is not None:
            cache.advance(length, valid_BT)
        return hidden_BTD

    def token_logits(self, hidden: Tensor) -> Tensor:
        """fp32 [..., V]."""
        return self.text.lm_head(self.text.post_ln(hidden.float()))

    def go_logits(self, hidden: Tensor, go_on: GoOn | None = None) -> Tensor:
        """fp32 [..., 2]: stop (eos_id), go on (see `GoOn`; None is the base's own)."""
        special, head = self.config.tokenizer, self.text.lm_head
        if (go_on or special.go_on) is GoOn.ANY_TOKEN:
            logits = self.token_logits(hidden)
            others = logits.index_fill(-1, torch.tensor([special.eos_id], device=logits.device), -math.inf)
            return torch.stack((logits[..., special.eos_id], others.amax(dim=-1)), dim=-1)
        rows = [special.eos_id, special.coord_id]
        return functional.linear(self.text.post_ln(hidden.float()), head.weight[rows], head.bias[rows])

    def coord_logits(self, hidden: Tensor) -> Tensor:
        """fp32 [..., bins]."""
        return self.region.coord_logits(hidden.float())

    def size_logits(self, hidden: Tensor) -> Tensor:
        """fp32 [..., 2, bins]: width, height."""
        return self.region.size_logits(hidden.float())

    def embed_coords(self, values: Tensor) -> Tensor:
        """Embeddings [..., D] of coordinates [...] in 0..1."""
        return self.region.embed_coords(values).to(self.dtype)

    def embed_sizes(self, sizes: Tensor) -> Tensor:
        """Embeddings [..., D] of (width, height) pairs [..., 2] in 0..1."""
        return self.region.embed_sizes(sizes).to(self.dtype)

    def new_cache(self, batch: int, capacity: int) -> KvCache:
        """An empty cache for this model."""
        text = self.config.text
        return KvCache.empty(text.layers, batch, text.kv_heads, text.head_dim, capacity, self.dtype, str(self.device))


def normalise(pixels_NHWC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels to [N, C, H, W] in -1..1: (x / 255 - 0.5) / 0.5, each step in `dtype`, as upstream does in bf16."""
    return (pixels_NHWC.permute(0, 3, 1, 2).to(dtype) / 255.0 - 0.5) / 0.5


def causal_mask(length: int, cache: KvCache | None, device: torch.device) -> Tensor:
    """[B or 1, T, S]: the valid slots of the cache, then causal among the new positions."""
    new_TT = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if cache is None:
        return new_TT.unsqueeze(0)
    past_BTS = cache.valid[:, None, :].expand(-1, length, -1)
    return torch.cat((past_BTS, new_TT.expand(cache.batch, -1, -1)), dim=-1)
