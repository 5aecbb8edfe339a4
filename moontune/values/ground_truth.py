"""What a right answer is, where one is known. Rewards read it and never change it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.image_size import ImageSize
from moontune.values.mask import Mask
from moontune.values.pose import Pose
from moontune.values.skill import Skill

MAX_OBJECTS = 1_000
MAX_MASKS = 64
MAX_ANSWERS = 256
MAX_ANSWER_CHARACTERS = 16_384


class _Checked(Protocol):
    def validate(self, field: str) -> None: ...


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Labels of one image and request; None means not labelled, an empty tuple means none there.

    boxes: for detect, for point by containment, for query where the answer writes boxes. points: for point and query.
    answers: for query and caption, any of which is right. masks: for point by containment and for query.
    poses: for point (one pose, its keypoints in order) and for query.
    categories: of the boxes, one each in their order; None where all are what was asked for.
    image_size: of the image, where answers are in pixels or distances shall be.
    """

    boxes: tuple[Box, ...] | None = None
    points: tuple[Point, ...] | None = None
    answers: tuple[str, ...] | None = None
    masks: tuple[Mask, ...] | None = None
    poses: tuple[Pose, ...] | None = None
    categories: tuple[str, ...] | None = None
    image_size: ImageSize | None = None

    @property
    def labels(self) -> Mapping[str, Sequence[object]]:
        """The labels that are there, by kind."""
        every: dict[str, Sequence[object] | None] = {
            "boxes": self.boxes,
            "points": self.points,
            "answers": self.answers,
            "masks": self.masks,
            "poses": self.poses,
        }
        return {kind: labels for kind, labels in every.items() if labels is not None}

    def validate(self, skill: Skill, field: str = "ground_truth") -> None:
        """Raise InvalidField unless exactly what the skill can be scored by is present and in range."""
        given, allowed = list(self.labels), KINDS_BY_SKILL[skill]
        if len(given) != 1 or given[0] not in allowed:
            raise InvalidField.of(field, given, f"exactly one of {sorted(allowed)} for {skill}")
        _check_each(f"{field}.boxes", self.boxes, MAX_OBJECTS)
        _check_each(f"{field}.points", self.points, MAX_OBJECTS)
        _check_each(f"{field}.masks", self.masks, MAX_MASKS)
        _check_each(f"{field}.poses", self.poses, MAX_MASKS)
        _check_answers(f"{field}.answers", self.answers or ())
        if self.categories is not None and len(self.categories) != len(self.boxes or ()):
            allowed_categories = f"none, or one for each of {len(self.boxes or ())} boxes"
            raise InvalidField.of(f"{field}.categories", f"{len(self.categories)} categories", allowed_categories)
        _check_answers(f"{field}.categories", self.categories or (), MAX_OBJECTS)
        if self.image_size is not None:
            self.image_size.validate(f"{field}.image_size")


KINDS_BY_SKILL: Mapping[Skill, frozenset[str]] = {
    Skill.DETECT: frozenset({"boxes"}),
    Skill.POINT: frozenset({"boxes", "points", "masks", "poses"}),
    Skill.QUERY: frozenset({"answers", "boxes", "points", "masks", "poses"}),
    Skill.CAPTION: frozenset({"answers"}),
}
"""Which labels an answer of a skill can be scored by."""


def _check_each(field: str, labels: Sequence[_Checked] | None, most: int) -> None:
    if len(labels or ()) > most:
        raise InvalidField.of(field, f"{len(labels or ())} labels", f"at most {most}")
    for index, label in enumerate(labels or ()):
        label.validate(f"{field}[{index}]")


def _check_answers(field: str, texts: Sequence[str], most: int = MAX_ANSWERS) -> None:
    if len(texts) > most:
        raise InvalidField.of(field, f"{len(texts)} texts", f"at most {most}")
    for index, text in enumerate(texts):
        if len(text) > MAX_ANSWER_CHARACTERS:
            raise InvalidField.of(f"{field}[{index}]", f"{len(text)} characters", f"at most {MAX_ANSWER_CHARACTERS}")
