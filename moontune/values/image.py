"""An encoded image, named by its content."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Image:
    """A jpeg, png or webp file: its SHA-256 (64 hex digits) and, unless only named, its bytes."""

    sha256: str
    data: bytes | None = None

    @classmethod
    def of(cls, data: bytes) -> "Image":
        """The image with these encoded bytes."""
        return cls(hashlib.sha256(data).hexdigest(), data)

    def named(self) -> "Image":
        """The same image without its bytes."""
        return Image(self.sha256)
