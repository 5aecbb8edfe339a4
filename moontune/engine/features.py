"""Image tokens of encoded images, kept while they are likely to be asked for again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moontune.engine.byte_cache import ByteCache
from moontune.errors import ImageUnknown
from moontune.imaging.crops import CropLayout, ImageCrops, cut_crops
from moontune.imaging.decode import ImageLimits, decode_image
from moontune.model.base_model import BaseModel
from moontune.model.moondream import normalise
from moontune.values.engine import CacheStatus
from moontune.values.image import Image

CROPS_PER_PASS = 64
"""Most crops in one pass of the vision tower, which bounds its activations."""


class ImageFeatures:
    """Image tokens [P, D] by base digest, vision adapter and the image's sha256; an LRU in bytes."""

    def __init__(self, base: BaseModel, budget_bytes: int, limits: ImageLimits) -> None:
        """`budget_bytes` bounds the tokens kept; `limits` the images accepted."""
        vision = base.config.vision
        self._base = base
        self._limits = limits
        margin = vision.overlap_margin * vision.patch_size
        self._layout = CropLayout(vision.crop_size, margin, vision.max_crops)
        self.cache: ByteCache[tuple[str, str, str], Tensor] = ByteCache(budget_bytes)

    def held(self, image: Image, vision_adapter: str) -> Tensor | None:
        """The tokens of this image if they are kept."""
        return self.cache.get((self._base.digest, vision_adapter, image.sha256))

    def cut(self, image: Image, field: str) -> ImageCrops:
        """Decode and tile; raises ImageUnknown without bytes, ImageInvalid or ImageTooLarge, naming `field`."""
        if image.data is None:
            raise ImageUnknown(
                f"{field} names the image {image.sha256} by digest alone and it is not held here; send its bytes once",
                metadata={"sha256": image.sha256},
            )
        return cut_crops(decode_image(image.data, field, self._limits), self._layout)

    def encode(self, images: Sequence[tuple[Image, ImageCrops]], vision_adapter: str) -> list[Tensor]:
        """Tokens of several images, their crops run through the vision tower together, and kept."""
        if not images:
            return []
        module = self._base.module
        pixels = torch.cat([torch.from_numpy(crops.pixels) for _, crops in images]).to(self._base.device)
        starts = range(0, len(pixels), CROPS_PER_PASS)
        passes = [module.encode_crops(normalise(pixels[start : start + CROPS_PER_PASS])) for start in starts]
        counts = [len(crops.pixels) for _, crops in images]
        tokens: list[Tensor] = []
        for (image, crops), features_NPE in zip(images, torch.split(torch.cat(passes), counts), strict=True):
            whole = features_NPE[:1]
            local = whole if len(features_NPE) == 1 else module.vision.stitch(features_NPE[1:], crops.tiling)
            tokens_PD = module.project(whole, local)[0]
            size_bytes = tokens_PD.numel() * tokens_PD.element_size()
            self.cache.put((self._base.digest, vision_adapter, image.sha256), tokens_PD, size_bytes)
            tokens.append(tokens_PD)
        return tokens

    def status(self) -> CacheStatus:
        """Counters and bytes."""
        cache = self.cache
        return CacheStatus("image", cache.resident_bytes, cache.budget_bytes, cache.hits, cache.misses, cache.evictions)
