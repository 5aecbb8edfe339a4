"""Weights by hand: what each decision counts, per aggregation and skill."""

import pytest

from moontune.values.skill import Skill
from moontune.values.training import Aggregation
from services.trainer.aggregation import GroupShape, decision_weights

ONE_GROUP = [GroupShape(Skill.QUERY, (2, 3), length=10)]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (Aggregation.TOKEN_MEAN, [1 / 5, 1 / 5]),
        (Aggregation.SEQUENCE_MEAN, [1 / 4, 1 / 6]),
        (Aggregation.CONSTANT, [1 / 20, 1 / 20]),
        (Aggregation.SEQUENCE_SUM, [1 / 2, 1 / 2]),
    ],
)
def test_one_group_by_hand(aggregation: Aggregation, expected: list[float]) -> None:
    assert decision_weights(ONE_GROUP, aggregation) == [pytest.approx(expected, abs=1e-15)]


def test_skills_are_normalised_apart() -> None:
    shapes = [GroupShape(Skill.DETECT, (101, 99)), GroupShape(Skill.QUERY, (5, 5)), GroupShape(Skill.QUERY, (10,))]
    weights = decision_weights(shapes, Aggregation.TOKEN_MEAN)
    # one detect group of three: a third, over 200 decisions; two query groups: two thirds, over 20
    assert weights[0] == pytest.approx([1 / 3 / 200] * 2, abs=1e-15)
    assert weights[1] == pytest.approx([2 / 3 / 20] * 2, abs=1e-15)
    assert weights[2] == pytest.approx([2 / 3 / 20], abs=1e-15)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_dead_groups_and_unscored_rollouts_dilute_nothing(aggregation: Aggregation) -> None:
    live = [GroupShape(Skill.POINT, (4, 6), 8), GroupShape(Skill.QUERY, (3,), 8)]
    dead = [GroupShape(Skill.POINT, (0, 0), 8), GroupShape(Skill.DETECT, (0,), 8)]
    alone = decision_weights(live, aggregation)
    assert decision_weights([live[0], dead[0], live[1], dead[1]], aggregation) == [
        alone[0],
        [0.0, 0.0],
        alone[1],
        [0.0],
    ]
    padded = decision_weights([GroupShape(Skill.POINT, (4, 0, 6), 8), live[1]], aggregation)
    assert padded == [[alone[0][0], 0.0, alone[0][1]], alone[1]]


def test_nothing_live() -> None:
    assert decision_weights([GroupShape(Skill.POINT, (0,))], Aggregation.TOKEN_MEAN) == [[0.0]]
    assert decision_weights([], Aggregation.TOKEN_MEAN) == []
