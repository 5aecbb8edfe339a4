"""A right answer as the decisions that generation would take on the way to it: teacher forcing.

Every decision is trained: each token and the end of text, go-on and stop, coordinates and sizes. Objects come in the
one order of `moontune.model.answers`.
"""

from moontune.errors import InvalidField
from moontune.model.answers import box_decisions, point_decisions
from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill
from moontune.values.training import SftGroup


def target_decisions(
    group: SftGroup, config: MoondreamConfig, tokenizer: Tokenizer, field: str
) -> tuple[tuple[Decision, ...], int]:
    """The decisions towards the target, and how many of them are thinking tokens.

    Log-probabilities are 0: nobody sampled them.
    """
    if isinstance(group.target, QueryOutput):
        return _text(group.request, group.target, config, tokenizer, field)
    if group.request.skill is Skill.DETECT:
        return box_decisions(group.target.boxes or (), config), 0
    points = group.target.points
    if points is None:
        points = tuple(box.centre for box in group.target.boxes or ())
    return point_decisions(points, config), 0


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
