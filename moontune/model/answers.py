"""Between decisions and what they say: answers read from decisions, and decisions that a label would have taken.

Boxes are clipped to 0..1. Labels are put in one order (by x, then y, of the centre), the order that moontune-tiny was
trained on: any order is right for a reward, but labels in random order are noise to a cross-entropy.
"""

from collections.abc import Iterator, Sequence

from moontune.model import codec
from moontune.model.config import MoondreamConfig
from moontune.model.conventions import OURS, Conventions
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box, Point
from moontune.values.output import (
    CaptionOutput,
    DetectOutput,
    Grounding,
    Output,
    PointOutput,
    QueryOutput,
    Reasoning,
)
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill


def read_output(
    skill: Skill,
    decisions: Sequence[Decision],
    config: MoondreamConfig,
    tokenizer: Tokenizer,
    *,
    reasoning: bool = False,
    thinking_count: int = 0,
    conventions: Conventions = OURS,
) -> Output:
    """What a rollout's decisions say; an object cut short by a limit is left out.

    The space with which the family's answers begin belongs to the tokens, not to the answer.
    """
    if skill is Skill.DETECT:
        return DetectOutput(tuple(_boxes(decisions, config, conventions)))
    if skill is Skill.POINT:
        return PointOutput(tuple(_points(decisions, config, conventions)))
    special = config.tokenizer
    said = [decision.choice for decision in decisions[thinking_count:] if decision.head is Head.TOKEN]
    answer = tokenizer.decode([token for token in said if token not in (special.eos_id, special.answer_id)])
    answer = answer.strip() if conventions.strip else answer
    if skill is Skill.CAPTION:
        return CaptionOutput(answer)
    thoughts = decisions[:thinking_count]
    return QueryOutput(answer, _reasoning(thoughts, config, tokenizer, conventions) if reasoning else None)


def box_decisions(boxes: Sequence[Box], config: MoondreamConfig, *, canonical: bool = True) -> tuple[Decision, ...]:
    """The decisions of a detect rollout that finds exactly these boxes and stops; log-probabilities are 0.

    canonical: in the one order; else as given.
    """
    bins = config.region.bins
    taken: list[Decision] = []
    for box in sorted(boxes, key=lambda box: (box.centre.x, box.centre.y)) if canonical else boxes:
        taken += _go_to(box.centre, bins)
        taken.append(Decision(Head.WIDTH, codec.size_to_bin(box.width, bins), 0.0))
        taken.append(Decision(Head.HEIGHT, codec.size_to_bin(box.height, bins), 0.0))
    return (*taken, Decision(Head.GO, 0, 0.0))


def point_decisions(
    points: Sequence[Point], config: MoondreamConfig, *, canonical: bool = True
) -> tuple[Decision, ...]:
    """The decisions of a point rollout that names exactly these points and stops; canonical: as for boxes."""
    ordered = sorted(points, key=lambda point: (point.x, point.y)) if canonical else points
    taken = [decision for point in ordered for decision in _go_to(point, config.region.bins)]
    return (*taken, Decision(Head.GO, 0, 0.0))


def _go_to(point: Point, bins: int) -> list[Decision]:
    x, y = codec.coord_to_bin(point.x, bins), codec.coord_to_bin(point.y, bins)
    return [Decision(Head.GO, 1, 0.0), Decision(Head.X, x, 0.0), Decision(Head.Y, y, 0.0)]


def _points(decisions: Sequence[Decision], config: MoondreamConfig, conventions: Conventions) -> Iterator[Point]:
    bins, decoding = config.region.bins, conventions.decoding
    numbers = [decision.choice for decision in decisions if decision.head in (Head.X, Head.Y)]
    for x, y in zip(numbers[::2], numbers[1::2], strict=False):
        yield Point(codec.bin_to_coord(x, bins, decoding), codec.bin_to_coord(y, bins, decoding))


def _boxes(decisions: Sequence[Decision], config: MoondreamConfig, conventions: Conventions) -> Iterator[Box]:
    bins = config.region.bins
    centres = _points(decisions, config, conventions)
    widths = [decision.choice for decision in decisions if decision.head is Head.WIDTH]
    heights = [decision.choice for decision in decisions if decision.head is Head.HEIGHT]
    for width_bin, height_bin in zip(widths, heights, strict=False):
        centre = next(centres)
        width, height = codec.bin_to_size(width_bin, bins), codec.bin_to_size(height_bin, bins)
        if conventions.clip_boxes:
            yield Box.from_centre(centre.x, centre.y, width, height)
        else:
            yield Box(centre.x - width / 2, centre.y - height / 2, centre.x + width / 2, centre.y + height / 2)


def _reasoning(
    thoughts: Sequence[Decision], config: MoondreamConfig, tokenizer: Tokenizer, conventions: Conventions
) -> Reasoning:
    """Text of the thinking tokens; a piece of it between two grounding markers carries the points decided in it.

    `<start> text coord x coord y ... <end>`: markers are special tokens, so they leave no text behind.
    """
    special = config.tokenizer
    pieces: list[list[Decision]] = [[]]
    for decision in thoughts:
        if decision.head is Head.TOKEN and decision.choice in (special.start_ground_points_id, special.end_ground_id):
            pieces.append([])
        pieces[-1].append(decision)
    text, spans = "", list[Grounding]()
    for piece in pieces:
        start = len(text)
        text += tokenizer.decode([decision.choice for decision in piece if decision.head is Head.TOKEN])
        if points := tuple(_points(piece, config, conventions)):
            spans.append(Grounding(start, len(text), points))
    return Reasoning(text, tuple(spans))
