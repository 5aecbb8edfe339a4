"""Between decisions and what they say: answers read from decisions, and decisions that a label would have taken.

Boxes are clipped to 0..1. Labels are put in one order (by x, then y, of the centre), the order that moontune-tiny was
trained on: any order is right for a reward, but labels in random order are noise to a cross-entropy.
"""

from collections.abc import Iterator, Sequence

from moontune.model import codec
from moontune.model.config import MoondreamConfig
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
    decoding: codec.CoordDecoding = codec.CoordDecoding.EXACT,
) -> Output:
    """What a rollout's decisions say; an object cut short by a limit is left out.

    The space with which the family's answers begin belongs to the tokens, not to the answer.
    """
    if skill is Skill.DETECT:
        return DetectOutput(tuple(_boxes(decisions, config, decoding)))
    if skill is Skill.POINT:
        return PointOutput(tuple(_points(decisions, config, decoding)))
    special = config.tokenizer
    said = [decision.choice for decision in decisions[thinking_count:] if decision.head is Head.TOKEN]
    answer = tokenizer.decode([token for token in said if token not in (special.eos_id, special.answer_id)]).strip()
    if skill is Skill.CAPTION:
        return CaptionOutput(answer)
    thoughts = decisions[:thinking_count]
    return QueryOutput(answer, _reasoning(thoughts, config, tokenizer, decoding) if reasoning else None)


def box_decisions(boxes: Sequence[Box], config: MoondreamConfig) -> tuple[Decision, ...]:
    """The decisions of a detect rollout that finds exactly these boxes and stops; log-probabilities are 0."""
    bins = config.region.bins
    taken: list[Decision] = []
    for box in sorted(boxes, key=lambda box: (box.centre.x, box.centre.y)):
        taken += _go_to(box.centre, bins)
        taken.append(Decision(Head.WIDTH, codec.size_to_bin(box.width, bins), 0.0))
        taken.append(Decision(Head.HEIGHT, codec.size_to_bin(box.height, bins), 0.0))
    return (*taken, Decision(Head.GO, 0, 0.0))


def point_decisions(points: Sequence[Point], config: MoondreamConfig) -> tuple[Decision, ...]:
    """The decisions of a point rollout that names exactly these points and stops."""
    ordered = sorted(points, key=lambda point: (point.x, point.y))
    taken = [decision for point in ordered for decision in _go_to(point, config.region.bins)]
    return (*taken, Decision(Head.GO, 0, 0.0))


def _go_to(point: Point, bins: int) -> list[Decision]:
    x, y = codec.coord_to_bin(point.x, bins), codec.coord_to_bin(point.y, bins)
    return [Decision(Head.GO, 1, 0.0), Decision(Head.X, x, 0.0), Decision(Head.Y, y, 0.0)]


def _points(decisions: Sequence[Decision], config: MoondreamConfig, decoding: codec.CoordDecoding) -> Iterator[Point]:
    bins = config.region.bins
    numbers = [decision.choice for decision in decisions if decision.head in (Head.X, Head.Y)]
    for x, y in zip(numbers[::2], numbers[1::2], strict=False):
        yield Point(codec.bin_to_coord(x, bins, decoding), codec.bin_to_coord(y, bins, decoding))


def _boxes(decisions: Sequence[Decision], config: MoondreamConfig, decoding: codec.CoordDecoding) -> Iterator[Box]:
    bins = config.region.bins
    centres = _points(decisions, config, decoding)
    widths = [decision.choice for decision in decisions if decision.head is Head.WIDTH]
    heights = [decision.choice for decision in decisions if decision.head is Head.HEIGHT]
    for width, height in zip(widths, heights, strict=False):
        centre = next(centres)
        yield Box.from_centre(centre.x, centre.y, codec.bin_to_size(width, bins), codec.bin_to_size(height, bins))


def _reasoning(
    thoughts: Sequence[Decision], config: MoondreamConfig, tokenizer: Tokenizer, decoding: codec.CoordDecoding
) -> Reasoning:
    """Text of the thinking tokens; a span between the grounding markers carries the points decided inside it.

    `<start> text coord x coord y ... <end>`: the text inside the markers is part of the reasoning text, the points
    are not.
    """
    special = config.tokenizer
    text, spans = "", list[Grounding]()
    run: list[int] = []
    start, inside = 0, list[Decision]()
    for decision in thoughts:
        if decision.head is not Head.TOKEN:
            inside.append(decision)
        elif decision.choice in (special.start_ground_points_id, special.end_ground_id):
            text, run = text + tokenizer.decode(run), []
            if decision.choice == special.end_ground_id and inside:
                spans.append(Grounding(start, len(text), tuple(_points(inside, config, decoding))))
            start, inside = len(text), []
        elif decision.choice != special.coord_id:
            run.append(decision.choice)
    return Reasoning(text + tokenizer.decode(run), tuple(spans))
