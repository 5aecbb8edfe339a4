"""How large an image is, where only its labels are at hand."""

from dataclasses import dataclass

from moontune.errors import InvalidField

MAX_SIDE = 65_535


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Width and height of an image in pixels."""

    width: int
    height: int

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, unless both sides are 1 to 65535 pixels."""
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= MAX_SIDE:
                raise InvalidField.of(f"{field}.{name}", side, f"1 to {MAX_SIDE} pixels")
