"""`image_url` to an image: a base64 data URL of a jpeg, png or webp, or an http(s) URL where a setting allows it."""

import asyncio
import base64
import binascii

from moontune.errors import ImageInvalid, ImageTooLarge, InvalidField
from moontune.imaging.decode import ImageLimits, inspect_image
from moontune.values.image import Image
from services.gateway.remote_images import RemoteImages

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/jpg")
_THREAD_CHARS = 256 * 1024
"""Longer URLs are decoded in a thread; for shorter ones that takes longer than decoding."""


class ImageReader:
    """Reads `image_url` of any form that is allowed."""

    def __init__(self, most_bytes: int, remote: RemoteImages) -> None:
        self._most_bytes = most_bytes
        self._remote = remote

    async def read(self, url: str, field: str) -> Image:
        """The image; its header is read, its pixels are left to the model service.

        Raises:
            InvalidField: a URL that is not allowed. ImageInvalid: not an image. ImageTooLarge: more bytes or pixels.
        """
        if is_data_url(url):
            if len(url) <= _THREAD_CHARS:
                return image_from_url(url, field, self._most_bytes)
            return await asyncio.to_thread(image_from_url, url, field, self._most_bytes)
        return checked_image(await self._remote.fetch(url, field), field, self._most_bytes)

    async def close(self) -> None:
        """Close the connections to other hosts."""
        await self._remote.close()


def is_data_url(url: str) -> bool:
    """Whether the image is in the URL itself."""
    return url[:5].lower() == "data:"


def image_from_url(url: str, field: str, most_bytes: int) -> Image:
    """The image of a data URL; what `ImageReader.read` raises."""
    if not is_data_url(url):
        allowed = "a data URL (data:image/jpeg;base64,...); http(s) URLs are not fetched here"
        raise InvalidField.of(field, url[:60], allowed)
    head, comma, payload = url.partition(",")
    media, *parameters = head[5:].lower().split(";")
    if not comma or media.strip() not in MEDIA_TYPES or "base64" not in [part.strip() for part in parameters]:
        raise InvalidField.of(field, head[:60], "data:image/jpeg;base64,... (or png, webp)")
    if len(payload) * 3 // 4 > most_bytes + 2:
        raise ImageTooLarge.of(field, f"{len(payload)} base64 characters", f"at most {most_bytes} bytes encoded")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageInvalid.of(field, payload[:40], f"valid base64 after the comma ({error})") from None
    return checked_image(data, field, most_bytes)


def checked_image(data: bytes, field: str, most_bytes: int) -> Image:
    """An encoded image whose header is in order."""
    inspect_image(data, field, ImageLimits(encoded_bytes=most_bytes))
    return Image.of(data)


def data_url(image: Image) -> str:
    """The URL that holds an image's bytes."""
    assert image.data is not None
    media = inspect_image(image.data).media_type
    return f"data:{media};base64,{base64.b64encode(image.data).decode()}"
