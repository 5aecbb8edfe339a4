"""Encoded images that callers have sent, so that later requests may name them by digest. No torch: fronts use it."""

from dataclasses import replace

from moontune.engine.byte_cache import ByteCache
from moontune.errors import ImageUnknown
from moontune.values.image import Image
from moontune.values.request import SkillRequest


class ImageStore:
    """Bytes by organisation and sha256; an LRU. An organisation only finds what it has sent itself."""

    def __init__(self, budget_bytes: int) -> None:
        """`budget_bytes` bounds the encoded bytes held."""
        self._cache: ByteCache[tuple[str, str], bytes] = ByteCache(budget_bytes)

    def fill(self, request: SkillRequest, organisation: str, field: str) -> SkillRequest:
        """The request with its image's bytes, which are kept; raises ImageUnknown, naming `field`, without them."""
        image = request.image
        if image is None:
            return request
        key = (organisation, image.sha256)
        if image.data is not None:
            self._cache.put(key, image.data, len(image.data))
            return request
        data = self._cache.get(key)
        if data is None:
            raise ImageUnknown(
                f"{field} names the image {image.sha256} by digest alone and it is not held here; send its bytes once",
                metadata={"sha256": image.sha256, "field": field},
            )
        return replace(request, image=Image(image.sha256, data))
