"""What a right answer is, where one is known. Rewards read it and never change it."""

from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Labels of one image and request; None means not labelled, an empty tuple means none there.

    boxes: for detect, or for point by containment. points: for point. answers: for query, any of which is right.
    """

    boxes: tuple[Box, ...] | None = None
    points: tuple[Point, ...] | None = None
    answers: tuple[str, ...] | None = None

    def validate(self, skill: Skill, field: str = "ground_truth") -> None:
        """Raise InvalidField unless exactly what the skill can be scored by is present and in range."""
        allowed = {
            Skill.DETECT: {"boxes": self.boxes},
            Skill.POINT: {"boxes": self.boxes, "points": self.points},
            Skill.QUERY: {"answers": self.answers},
            Skill.CAPTION: {"answers": self.answers},
        }[skill]
        every = {"boxes": self.boxes, "points": self.points, "answers": self.answers}
        given = [name for name, value in every.items() if value is not None]
        if len(given) != 1 or given[0] not in allowed:
            raise InvalidField.of(field, given, f"exactly one of {sorted(allowed)} for {skill}")
        for index, box in enumerate(self.boxes or ()):
            box.validate(f"{field}.boxes[{index}]")
        for index, point in enumerate(self.points or ()):
            point.validate(f"{field}.points[{index}]")
