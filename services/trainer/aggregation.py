"""How the terms of single decisions become one number: a weight per decision, known before the first forward.

The weights are computed over the whole step from counts alone, so that neither micro-batching nor padding nor the
order of groups can change them (a mean over the micro-batch does, which is the trap). Pure; no torch.

Skills are normalised apart: within a skill as the aggregation says, and skills are mixed by their share of groups, so
that one detection of 20 objects (101 decisions) does not drown an answer of 5 tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moontune.values.skill import Skill
from moontune.values.training import Aggregation


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What the weights depend on.

    counts: decisions of each rollout that carries an advantage, 0 for one that does not (no score, truncated away).
    length: the constant of CONSTANT, the most decisions that the request's limits allow.
    """

    skill: Skill
    counts: tuple[int, ...]
    length: int = 1


def decision_weights(shapes: Sequence[GroupShape], aggregation: Aggregation) -> list[list[float]]:
    """Weight of each decision of each rollout of each group (all decisions of a rollout weigh the same).

    The loss of the step is sum over decisions of weight * term.
    """
    live = [shape for shape in shapes if sum(shape.counts)]
    groups = Counter(shape.skill for shape in live)
    decisions = Counter[Skill]()
    for shape in live:
        decisions[shape.skill] += sum(shape.counts)
    weights: list[list[float]] = []
    for shape in shapes:
        share = groups[shape.skill] / len(live) if live else 0.0
        weights.append(
            [
                _weight(shape, count, groups[shape.skill], decisions[shape.skill], aggregation) * share
                if count
                else 0.0
                for count in shape.counts
            ]
        )
    return weights


def _weight(shape: GroupShape, count: int, groups: int, decisions: int, aggregation: Aggregation) -> float:
    rollouts = sum(1 for other in shape.counts if other)
    match aggregation:
        case Aggregation.TOKEN_MEAN:
            return 1.0 / decisions
        case Aggregation.SEQUENCE_MEAN:
            return 1.0 / (groups * rollouts * count)
        case Aggregation.CONSTANT:
            return 1.0 / (groups * rollouts * shape.length)
        case Aggregation.SEQUENCE_SUM:
            return 1.0 / (groups * rollouts)
