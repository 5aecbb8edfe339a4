"""Image tokens of encoded images, kept while they are likely to be asked for again."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.engine.byte_cache import ByteCache
from moontune.engine.device_adapters import DeviceAdapters
from moontune.errors import ImageUnknown
from moontune.imaging.crops import CropLayout, ImageCrops, cut_crops
from moontune.imaging.decode import ImageLimits, decode_image
from moontune.model.base_model import BaseModel
from moontune.model.vision import crops_per_pass
from moontune.values.engine import CacheStatus
from moontune.values.image import Image


@dataclass(frozen=True, slots=True, eq=False)
class Fresh:
    """An image to encode. adapter: digest of the adapter that acts on the vision tower, "" for the base's."""

    image: Image
    crops: ImageCrops
    adapter: str


class ImageFeatures:
    """Image tokens [P, D] by base digest, vision adapter and the image's sha256; an LRU in bytes.

    images, images_s: how many were encoded, and the seconds that it took.
    """

    def __init__(self, base: BaseModel, adapters: DeviceAdapters, budget_bytes: int, limits: ImageLimits) -> None:
        """`budget_bytes` bounds the tokens kept; `limits` the images accepted."""
        vision = base.config.vision
        self._base, self._adapters = base, adapters
        self._limits = limits
        margin = vision.overlap_margin * vision.patch_size
        self._layout = CropLayout(vision.crop_size, margin, vision.max_crops)
        self._lock = threading.Lock()
        self._cache: ByteCache[tuple[str, str, str], Tensor] = ByteCache(budget_bytes)
        self.images, self.images_s = 0, 0.0

    def find(self, image: Image, vision_adapter: str, field: str) -> Tensor | ImageCrops:
        """The tokens if they are kept, else the image decoded and tiled.

        Any thread may call it. Raises ImageUnknown without bytes, ImageInvalid or ImageTooLarge, naming `field`.
        """
        tokens = self.held(image.sha256, vision_adapter)
        if tokens is not None:
            return tokens
        if image.data is None:
            raise ImageUnknown(
                f"{field} names the image {image.sha256} by digest alone and it is not held here; send its bytes once",
                metadata={"sha256": image.sha256},
            )
        return cut_crops(decode_image(image.data, field, self._limits), self._layout)

    def held(self, sha256: str, vision_adapter: str) -> Tensor | None:
        """The tokens of an image if they are kept; counts a hit. Any thread may call it."""
        key = (self._base.digest, vision_adapter, sha256)
        with self._lock:
            return self._cache.get(key) if key in self._cache else None

    def encode(self, images: Sequence[Fresh]) -> list[Tensor]:
        """Tokens of several images, their crops run through the vision tower together, and kept.

        Images whose tokens depend on different adapters go through it together as well.
        """
        started = time.monotonic()
        tokens: list[Tensor] = []
        for each, features_NPE in zip(images, self._features(images), strict=True):
            self._adapters.act((each.adapter,))
            tokens_PD = self._base.module.join_crops(features_NPE, each.crops.tiling)
            size_bytes = tokens_PD.numel() * tokens_PD.element_size()
            with self._lock:
                self._cache.misses += 1
                self._cache.put((self._base.digest, each.adapter, each.image.sha256), tokens_PD, size_bytes)
            tokens.append(tokens_PD)
        self.images += len(images)
        self.images_s += time.monotonic() - started
        return tokens

    def _features(self, images: Sequence[Fresh]) -> Sequence[Tensor]:
        """Features [N, P, E] of each image's crops; a pass takes crops of one image or of several."""
        module = self._base.module
        counts = [len(each.crops.pixels) for each in images]
        adapters = [each.adapter for each, count in zip(images, counts, strict=True) for _ in range(count)]
        pixels = torch.cat([torch.from_numpy(each.crops.pixels) for each in images]).to(self._base.device)
        most = crops_per_pass(module.device)
        passes: list[Tensor] = []
        for start in range(0, len(pixels), most):
            self._adapters.act(tuple(adapters[start : start + most]))
            passes.append(module.encode_pixels(pixels[start : start + most]))
        return torch.split(torch.cat(passes), counts)

    def status(self) -> CacheStatus:
        """Counters and bytes."""
        cache = self._cache
        return CacheStatus("image", cache.resident_bytes, cache.budget_bytes, cache.hits, cache.misses, cache.evictions)
