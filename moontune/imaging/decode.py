"""The one decoder: jpeg, png and webp bytes to RGB pixels, with limits enforced before anything is decompressed."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from moontune.errors import ImageInvalid, ImageTooLarge

FORMATS: Mapping[str, str] = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Accepted formats by Pillow's name, with their media types."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be: bytes of the encoded file, pixels (width times height), and the longer side by the shorter.

    Beyond an aspect of 200 the shorter side is less than two of the 378 pixels that a model looks at.
    """

    encoded_bytes: int = 10 * 1024 * 1024
    pixels: int = 40_000_000
    aspect: int = 200


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header says: media type, width and height in pixels as stored (before EXIF orientation)."""

    media_type: str
    width: int
    height: int


def inspect_image(data: bytes, field: str = "image", limits: ImageLimits | None = None) -> ImageInfo:
    """Read the header only; raises ImageInvalid or ImageTooLarge, naming `field`."""
    with _open(data, field, limits or ImageLimits()) as image:
        return ImageInfo(_media_type(image), image.width, image.height)


def decode_image(data: bytes, field: str = "image", limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of an encoded image.

    EXIF orientation is applied, transparency is laid over white, 16-bit samples keep their high byte, of an
    animation the first frame counts. Raises ImageInvalid or ImageTooLarge, naming `field`.
    """
    with _open(data, field, limits or ImageLimits()) as image:
        try:
            image.load()
            return np.array(_upright(_rgb(image), image), dtype=np.uint8)
        except Exception as error:  # a decoder fed hostile bytes raises whatever it likes
            raise ImageInvalid.of(field, _shown(data), f"an undamaged jpeg, png or webp ({error})") from error


def _open(data: bytes, field: str, limits: ImageLimits) -> Image.Image:
    if len(data) > limits.encoded_bytes:
        raise ImageTooLarge.of(field, f"{len(data)} bytes", f"at most {limits.encoded_bytes} bytes encoded")
    allowed_pixels = f"at most {limits.pixels} pixels"
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow has a limit of its own, far above ours; where warnings are errors its warning ends here too.
        raise ImageTooLarge.of(field, _shown(data), f"{allowed_pixels} ({error})") from error
    except Exception as error:
        raise ImageInvalid.of(field, _shown(data), "a jpeg, png or webp file") from error
    if image.width < 1 or image.height < 1:
        raise ImageInvalid.of(field, f"{image.width} x {image.height} pixels", "an image of at least one pixel")
    if image.width * image.height > limits.pixels:
        raise ImageTooLarge.of(field, f"{image.width} x {image.height} pixels", allowed_pixels)
    if max(image.size) > limits.aspect * min(image.size):
        allowed = f"a longer side of at most {limits.aspect} times the shorter: nothing of a thinner one is left to see"
        raise ImageInvalid.of(field, f"{image.width} x {image.height} pixels", allowed)
    return image


def _media_type(image: Image.Image) -> str:
    """Pillow calls a jpeg with further pictures behind the first (many phones write them) MPO; it is a jpeg."""
    return FORMATS.get(str(image.format), FORMATS["JPEG"])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit greys at 255 when it converts them; keep the high byte, as it does for 16-bit RGB.
        high = np.clip(np.asarray(image, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Turn by the source's EXIF orientation; a damaged EXIF block counts as none."""
    try:
        pixels.info["exif"] = source.getexif().tobytes()
        return ImageOps.exif_transpose(pixels)
    except Exception:
        return pixels


def _shown(data: bytes) -> str:
    start = data[:8].hex(" ") if data else "nothing"
    return f"{len(data)} bytes starting with {start}"
