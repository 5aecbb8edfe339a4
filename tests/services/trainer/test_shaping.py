"""DAPO's overlong punishment by hand."""

import pytest

from services.trainer.shaping import overlong_penalty


@pytest.mark.parametrize(
    ("positions", "expected"),
    [(10, 0.0), (80, 0.0), (85, -0.5), (90, -1.0), (95, -1.5), (100, -2.0), (120, -2.0)],
)
def test_rewards_fall_linearly_in_the_zone(positions: int, expected: float) -> None:
    # limit 100, zone 20: from 80 on, by 2 at 100.
    assert overlong_penalty(positions, 100, 20, 2.0) == pytest.approx(expected, abs=1e-12)


def test_no_zone_no_penalty() -> None:
    assert overlong_penalty(1000, 100, 0, 5.0) == 0.0
