"""What a model answered, read back from its decisions."""

from dataclasses import dataclass

from moontune.values.geometry import Box, Point


@dataclass(frozen=True, slots=True)
class Grounding:
    """A span [start, end) of the reasoning text, in characters, and the points it refers to."""

    start: int
    end: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The text thought before the answer."""

    text: str
    grounding: tuple[Grounding, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryOutput:
    """An answer; `reasoning` is None when none was asked for."""

    answer: str
    reasoning: Reasoning | None = None


@dataclass(frozen=True, slots=True)
class PointOutput:
    """Points in the order they were decided."""

    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class DetectOutput:
    """Boxes in the order they were decided."""

    objects: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class CaptionOutput:
    """A caption."""

    caption: str


Output = QueryOutput | PointOutput | DetectOutput | CaptionOutput
