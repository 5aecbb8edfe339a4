"""Points and boxes, in 0..1 of the image: x to the right, y down."""

import math
from dataclasses import dataclass

from moontune.errors import InvalidField


@dataclass(frozen=True, slots=True)
class Point:
    """A position in the image; both coordinates in 0..1."""

    x: float
    y: float

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, unless both coordinates are finite and in 0..1."""
        for name, value in (("x", self.x), ("y", self.y)):
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise InvalidField.of(f"{field}.{name}", value, "a finite number from 0 to 1")


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in 0..1 with x_min < x_max and y_min < y_max."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @classmethod
    def from_centre(cls, x: float, y: float, width: float, height: float) -> "Box":
        """The box around a centre, clipped to 0..1."""
        return cls(max(0.0, x - width / 2), max(0.0, y - height / 2), min(1.0, x + width / 2), min(1.0, y + height / 2))

    @property
    def width(self) -> float:
        """x_max - x_min."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """y_max - y_min."""
        return self.y_max - self.y_min

    @property
    def area(self) -> float:
        """Width * height; 0 for a degenerate box."""
        return max(0.0, self.width) * max(0.0, self.height)

    @property
    def centre(self) -> Point:
        """The middle of the box."""
        return Point((self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2)

    def contains(self, point: Point) -> bool:
        """Whether the point lies inside or on the edge."""
        return self.x_min <= point.x <= self.x_max and self.y_min <= point.y <= self.y_max

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, unless all four are finite, in 0..1, and min < max on both axes."""
        corners = {"x_min": self.x_min, "y_min": self.y_min, "x_max": self.x_max, "y_max": self.y_max}
        for name, value in corners.items():
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise InvalidField.of(f"{field}.{name}", value, "a finite number from 0 to 1")
        if self.x_min >= self.x_max:
            raise InvalidField.of(f"{field}.x_min", self.x_min, f"less than x_max, which is {self.x_max!r}")
        if self.y_min >= self.y_max:
            raise InvalidField.of(f"{field}.y_min", self.y_min, f"less than y_max, which is {self.y_max!r}")


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in 0..1; 0 when either has no area."""
    width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
    intersection = max(0.0, width) * max(0.0, height)
    union = a.area + b.area - intersection
    return intersection / union if union > 0.0 else 0.0


def giou(a: Box, b: Box) -> float:
    """Generalised IoU, IoU - (|hull| - |union|) / |hull|, in (-1, 1]; -1 when either box has no area.

    Negative and rising while two boxes that do not touch come closer. Rezatofighi et al., CVPR 2019.
    """
    if not (a.area > 0.0 and b.area > 0.0):
        return -1.0
    hull = (max(a.x_max, b.x_max) - min(a.x_min, b.x_min)) * (max(a.y_max, b.y_max) - min(a.y_min, b.y_min))
    overlap = iou(a, b)
    union = (a.area + b.area) / (1.0 + overlap)
    return max(-1.0, overlap - (hull - union) / hull)
