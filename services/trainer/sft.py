"""A right answer as the decisions that generation would take on the way to it: teacher forcing.

Every decision is trained: each token and the end of text, go-on and stop, coordinates and sizes. Objects come in the
one order of `moontune.model.answers`, or in one drawn at random.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from moontune.errors import InvalidField
from moontune.model.answers import box_decisions, point_decisions
from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill
from moontune.values.training import Target

Placed = TypeVar("Placed")


def can_be_imitated(target: Target) -> bool:
    """Whether a right answer is one answer in the model's own form: text, boxes or points."""
    return isinstance(target, QueryOutput) or target.boxes is not None or target.points is not None


def target_decisions(
    request: SkillRequest,
    target: Target,
    config: MoondreamConfig,
    tokenizer: Tokenizer,
    field: str,
    order: random.Random | None = None,
) -> tuple[tuple[Decision, ...], int]:
    """The decisions towards the target, and how many of them are thinking tokens.

    Log-probabilities are 0: nobody sampled them. order: draws the order of the objects; None is the canonical one.
    InvalidField, naming `field.ground_truth`, for labels that are not one answer (masks, poses).
    """
    if isinstance(target, QueryOutput):
        return _text(request, target, config, tokenizer, field)
    if not can_be_imitated(target):
        raise InvalidField.of(f"{field}.ground_truth", sorted(target.labels), "boxes or points: these can be imitated")
    canonical = order is None
    if request.skill is Skill.DETECT:
        return box_decisions(_ordered(target.boxes or (), order), config, canonical=canonical), 0
    points = target.points
    if points is None:
        points = tuple(box.centre for box in target.boxes or ())
    return point_decisions(_ordered(points, order), config, canonical=canonical), 0


def _ordered(objects: Sequence[Placed], order: random.Random | None) -> Sequence[Placed]:
    return objects if order is None else order.sample(objects, len(objects))


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
