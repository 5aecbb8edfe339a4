"""Images: bytes where the value holds them, else the digest."""

from collections.abc import Sequence

from moontune.api.common.v1 import image_pb2
from moontune.errors import InvalidField
from moontune.values.image import Image
from moontune.wire.checks import encodes, required, sha256_hex


@encodes("image")
def image_to_proto(image: Image) -> image_pb2.Image:
    """The message; name the image first (`image.named()`) to leave its bytes away."""
    if image.data is None:
        return image_pb2.Image(sha256=image.sha256)
    return image_pb2.Image(data=image.data)


def image_from_proto(message: image_pb2.Image, field: str = "image") -> Image:
    """The value; the digest of bytes is computed here and never believed."""
    source = message.WhichOneof("source")
    required(source is not None, field, "data or sha256")
    if source == "sha256":
        return Image(sha256_hex(message.sha256, f"{field}.sha256"))
    required(bool(message.data), f"{field}.data", "the bytes of a jpeg, png or webp file")
    return Image.of(message.data)


def images_to_proto(image: Image | None) -> list[image_pb2.Image]:
    """The repeated field for the one image of a request, or for none."""
    return [] if image is None else [image_to_proto(image)]


def images_from_proto(messages: Sequence[image_pb2.Image], field: str = "images") -> Image | None:
    """The one image of a request, or None; more than one is refused for now."""
    if len(messages) > 1:
        raise InvalidField.of(field, f"{len(messages)} images", "at most 1 image")
    return image_from_proto(messages[0], f"{field}[0]") if messages else None
