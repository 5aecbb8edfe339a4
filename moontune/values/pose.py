"""Keypoints of objects: poses."""

import math
from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.values.geometry import Point

MAX_KEYPOINTS = 256


@dataclass(frozen=True, slots=True)
class Pose:
    """One object's keypoints.

    keypoints: in the data set's order (nose, left eye, ...); None where nobody knows the place: it is not scored.
    area: of the object, as a share of the image's: the scale that distances are measured by.
    """

    keypoints: tuple[Point | None, ...]
    area: float

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, for a pose without keypoints, outside the image, or without area."""
        if not 1 <= len(self.keypoints) <= MAX_KEYPOINTS:
            allowed = f"1 to {MAX_KEYPOINTS} keypoints"
            raise InvalidField.of(f"{field}.keypoints", f"{len(self.keypoints)} keypoints", allowed)
        if not (math.isfinite(self.area) and 0.0 < self.area <= 1.0):
            raise InvalidField.of(f"{field}.area", self.area, "more than 0 and at most 1, a share of the image")
        for index, point in enumerate(self.keypoints):
            if point is not None:
                point.validate(f"{field}.keypoints[{index}]")
