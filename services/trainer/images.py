"""Image tokens for the learner: once per distinct image of a step, without gradient unless the vision tower trains."""

from collections import OrderedDict
from collections.abc import Collection

import torch
from torch import Tensor

from moontune.imaging.crops import CropLayout, cut_crops
from moontune.imaging.decode import decode_image
from moontune.model.moondream import Moondream
from services.trainer.spool import Spool


class StepImages:
    """Embeddings of one step's images, at most `cache_bytes` of them at a time.

    trained: the vision tower is a target; then `embeds` keeps nothing and runs it anew each time, with gradients.
    """

    def __init__(self, module: Moondream, spool: Spool, cache_bytes: int, *, trained: bool) -> None:
        vision = module.config.vision
        self._module, self._spool, self._trained = module, spool, trained
        self._layout = CropLayout(vision.crop_size, vision.overlap_margin * vision.patch_size, vision.max_crops)
        self._cache_bytes = cache_bytes
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._held_bytes = 0
        self.encoded = 0

    def embeds(self, sha256: str, field: str) -> Tensor | None:
        """Image tokens [P, D]; None for no image. An image that does not decode is named by `field`."""
        if not sha256:
            return None
        if self._trained:
            return self._encode(sha256, field)
        return self.base_embeds(sha256, field)

    def base_embeds(self, sha256: str, field: str) -> Tensor | None:
        """As `embeds`, without gradient and kept. Where the tower trains: call it with the adapter off."""
        if not sha256:
            return None
        held_PD = self._held.get(sha256)
        if held_PD is None:
            with torch.no_grad():
                held_PD = self._encode(sha256, field)
            self._hold(sha256, held_PD)
        return held_PD

    def release(self, sha256s: Collection[str]) -> None:
        """Let go of images that the step has no more use for."""
        for sha256 in sha256s:
            held_PD = self._held.pop(sha256, None)
            self._held_bytes -= 0 if held_PD is None else held_PD.nbytes

    def _encode(self, sha256: str, field: str) -> Tensor:
        self.encoded += 1
        pixels = decode_image(self._spool.image(sha256), field)
        return self._module.encode_image(cut_crops(pixels, self._layout))

    def _hold(self, sha256: str, embeds_PD: Tensor) -> None:
        self._held[sha256] = embeds_PD
        self._held_bytes += embeds_PD.nbytes
        while self._held_bytes > self._cache_bytes and len(self._held) > 1:
            _, oldest_PD = self._held.popitem(last=False)
            self._held_bytes -= oldest_PD.nbytes
