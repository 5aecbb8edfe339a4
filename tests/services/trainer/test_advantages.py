"""Advantages by hand, and the groups that carry none."""

import math

import pytest

from moontune.values.training import LossKind
from services.trainer.advantages import STD_FLOOR, group_advantages, has_signal


def test_group_centred_by_hand() -> None:
    # mean of 1, 0, 0, 1 is 0.5
    assert group_advantages([1.0, 0.0, 0.0, 1.0], LossKind.DAPO, False) == [0.5, -0.5, -0.5, 0.5]


def test_leave_one_out_by_hand() -> None:
    # 3 - mean(1, 2) = 1.5; 1 - mean(3, 2) = -1.5; 2 - mean(3, 1) = 0
    assert group_advantages([3.0, 1.0, 2.0], LossKind.RLOO, False) == pytest.approx([1.5, -1.5, 0.0], abs=1e-12)


def test_standard_deviation_is_the_unbiased_one() -> None:
    # rewards 0, 1: mean 0.5, variance ((0.25 + 0.25) / 1) = 0.5
    std = math.sqrt(0.5) + STD_FLOOR
    assert group_advantages([0.0, 1.0], LossKind.GRPO, True) == pytest.approx([-0.5 / std, 0.5 / std], abs=1e-12)


def test_a_failed_grade_leaves_the_baseline() -> None:
    # the mean is over 1 and 0, not over 1, 0 and 0
    assert group_advantages([1.0, None, 0.0], LossKind.DAPO, False) == [0.5, None, -0.5]


@pytest.mark.parametrize("rewards", [[0.1, 0.1, 0.1], [0.7], [None, None], [0.3, None, 0.3], []])
def test_no_spread_is_no_signal(rewards: list[float | None]) -> None:
    assert not has_signal(rewards)
    assert all(value in (None, 0.0) for value in group_advantages(rewards, LossKind.GRPO, True))


def test_three_tenths_are_exactly_equal_though_their_mean_is_not() -> None:
    rewards = [0.1 + 0.2] * 3
    assert not has_signal(rewards)
    assert group_advantages(rewards, LossKind.GRPO, True) == [0.0, 0.0, 0.0]
