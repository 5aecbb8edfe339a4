"""`image_url` to an image: base64 data URLs of jpeg, png and webp only. Nothing is ever fetched."""

import base64
import binascii

from moontune.errors import ImageInvalid, ImageTooLarge, InvalidField
from moontune.imaging.decode import ImageLimits, inspect_image
from moontune.values.image import Image

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/jpg")


def image_from_url(url: str, field: str, most_bytes: int) -> Image:
    """The image of a data URL; its header is read, its pixels are left to the model service.

    Raises:
        InvalidField: not a data URL. ImageInvalid: not base64, or no image. ImageTooLarge: more bytes or pixels.
    """
    if url[:5].lower() != "data:":
        allowed = "a data URL (data:image/jpeg;base64,...); http(s) URLs are not fetched"
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
    inspect_image(data, field, ImageLimits(encoded_bytes=most_bytes))
    return Image.of(data)
