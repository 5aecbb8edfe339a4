"""A right answer as the decisions that generation would take on the way to it: teacher forcing.

Every decision is trained: each token and the end of text, go-on and stop, coordinates and sizes. Objects come in one
canonical order, left to right by centre (x, then y), the order in which moontune-tiny was pre-trained; any order is
"right" for the reward, but labels in random order are noise to a cross-entropy.
"""

from collections.abc import Sequence

from moontune.errors import InvalidField
from moontune.model.codec import coord_to_bin, size_to_bin
from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box, Point
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill
from moontune.values.training import SftGroup

STOP, GO = 0, 1


def target_decisions(
    group: SftGroup, config: MoondreamConfig, tokenizer: Tokenizer, field: str
) -> tuple[tuple[Decision, ...], int]:
    """The decisions towards the target, and how many of them are thinking tokens.

    Log-probabilities are 0: nobody sampled them.
    """
    if isinstance(group.target, QueryOutput):
        return _text(group.request, group.target, config, tokenizer, field)
    if group.request.skill is Skill.DETECT:
        return _boxes(group.target.boxes or (), config.region.bins), 0
    points = group.target.points
    if points is None:
        points = tuple(box.centre for box in group.target.boxes or ())
    return _points(points, config.region.bins), 0


def _text(
    request: SkillRequest, target: QueryOutput, config: MoondreamConfig, tokenizer: Tokenizer, field: str
) -> tuple[tuple[Decision, ...], int]:
    special = config.tokenizer
    thoughts: list[int] = []
    if target.reasoning is not None:
        if target.reasoning.grounding:
            raise InvalidField.of(
                f"{field}.target.reasoning.grounding", len(target.reasoning.grounding), "none: only text is imitated"
            )
        thoughts = tokenizer.encode(f" {target.reasoning.text.strip()}")
    ids = [*thoughts, special.answer_id] if request.reasoning else []
    ids += [*tokenizer.encode(f" {target.answer.strip()}"), special.eos_id]
    return tuple(Decision(Head.TOKEN, token, 0.0) for token in ids), len(thoughts)


def _points(points: Sequence[Point], bins: int) -> tuple[Decision, ...]:
    decisions: list[Decision] = []
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        decisions.append(Decision(Head.GO, GO, 0.0))
        decisions += _position(point, bins)
    return (*decisions, Decision(Head.GO, STOP, 0.0))


def _boxes(boxes: Sequence[Box], bins: int) -> tuple[Decision, ...]:
    decisions: list[Decision] = []
    for box in sorted(boxes, key=lambda box: (box.centre.x, box.centre.y)):
        decisions.append(Decision(Head.GO, GO, 0.0))
        decisions += _position(box.centre, bins)
        decisions.append(Decision(Head.WIDTH, size_to_bin(box.width, bins), 0.0))
        decisions.append(Decision(Head.HEIGHT, size_to_bin(box.height, bins), 0.0))
    return (*decisions, Decision(Head.GO, STOP, 0.0))


def _position(point: Point, bins: int) -> tuple[Decision, Decision]:
    return (
        Decision(Head.X, coord_to_bin(point.x, bins), 0.0),
        Decision(Head.Y, coord_to_bin(point.y, bins), 0.0),
    )
