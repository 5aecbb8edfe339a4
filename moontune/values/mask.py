"""Masks: which part of an image belongs to an object, in the three forms that data sets and models use."""

from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.values.geometry import Point
from moontune.values.image_size import MAX_SIDE

MAX_RUNS = 65_536
MAX_RINGS = 64
MAX_RING_POINTS = 4_096
MAX_PATH_CHARACTERS = 16_384


@dataclass(frozen=True, slots=True)
class RleMask:
    """COCO's run lengths: pixels counted down the columns, left to right, alternately outside and inside.

    height, width: of the image in pixels. counts: lengths of the runs, the first (possibly 0) outside; they sum to
    height * width.
    """

    height: int
    width: int
    counts: tuple[int, ...]

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, unless the runs cover the image exactly."""
        for name, side in (("height", self.height), ("width", self.width)):
            if not 1 <= side <= MAX_SIDE:
                raise InvalidField.of(f"{field}.{name}", side, f"1 to {MAX_SIDE} pixels")
        if len(self.counts) > MAX_RUNS:
            raise InvalidField.of(f"{field}.counts", f"{len(self.counts)} runs", f"at most {MAX_RUNS} runs")
        if any(count < 0 for count in self.counts) or sum(self.counts) != self.height * self.width:
            given = f"{len(self.counts)} runs that sum to {sum(self.counts)}"
            allowed = f"lengths of 0 or more that sum to {self.height * self.width}, the pixels of the image"
            raise InvalidField.of(f"{field}.counts", given, allowed)

    @classmethod
    def from_coco(cls, height: int, width: int, text: str) -> "RleMask":
        """Read COCO's compressed counts; ValueError for text that is none.

        A number is groups of 5 bits from the lowest, bit 6 says that more follow, the characters start at "0";
        from the fourth run on, the difference to the run two before is stored.
        """
        counts: list[int] = []
        value = shift = 0
        for character in text:
            bits = ord(character) - 48
            if not 0 <= bits < 64 or shift > 30:
                raise ValueError(f"{character!r} has no place in compressed counts")
            value |= (bits & 31) << shift
            shift += 5
            if bits & 32:
                continue
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            if len(counts) > MAX_RUNS:
                raise ValueError(f"more than {MAX_RUNS} runs")
            value = shift = 0
        if shift:
            raise ValueError("compressed counts that end within a number")
        return cls(height, width, tuple(counts))


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """The union of rings, each a closed polygon in 0..1 of the image (its last point joins its first)."""

    rings: tuple[tuple[Point, ...], ...]

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, for too many or too short rings, or points outside the image."""
        if not 1 <= len(self.rings) <= MAX_RINGS:
            raise InvalidField.of(f"{field}.rings", f"{len(self.rings)} rings", f"1 to {MAX_RINGS} rings")
        for index, ring in enumerate(self.rings):
            if not 3 <= len(ring) <= MAX_RING_POINTS:
                raise InvalidField.of(f"{field}.rings[{index}]", f"{len(ring)} points", f"3 to {MAX_RING_POINTS}")
            for place, point in enumerate(ring):
                point.validate(f"{field}.rings[{index}][{place}]")


@dataclass(frozen=True, slots=True)
class SvgMask:
    """The data of an SVG path (`M 0.1 0.1 L ...`) in 0..1 of the image, filled by the nonzero rule."""

    path: str

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, unless it begins as a path does and is not too long."""
        if len(self.path) > MAX_PATH_CHARACTERS:
            raise InvalidField.of(
                f"{field}.path", f"{len(self.path)} characters", f"at most {MAX_PATH_CHARACTERS} characters"
            )
        if not self.path.lstrip().startswith(("M", "m")):
            raise InvalidField.of(f"{field}.path", self.path, "path data that begins with M")


Mask = RleMask | PolygonMask | SvgMask
