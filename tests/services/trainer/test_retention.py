"""What is let go of: which steps, and never the present one."""

from datetime import UTC, datetime, timedelta

import pytest

from services.trainer.retention import KeepRule, expired_steps
from services.trainer.rows import StepRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rows(count: int, age_hours: float = 0.0, size_bytes: int = 10, expired: int = 0) -> list[StepRow]:
    at = NOW - timedelta(hours=age_hours)
    return [StepRow("f", step, "d", "" if step < expired else f"f/{step}", size_bytes, at) for step in range(count)]


@pytest.mark.parametrize(
    ("held", "present", "rule", "gone"),
    [
        (rows(5), 4, KeepRule(8), []),
        (rows(20), 19, KeepRule(8), []),
        (rows(20, age_hours=25), 19, KeepRule(8), list(range(12))),
        (rows(20), 19, KeepRule(8, size_bytes=50), list(range(7))),
        (rows(20, age_hours=1000), 19, KeepRule(20), []),
        (rows(20, age_hours=25, expired=10), 19, KeepRule(8), [10, 11]),
        (rows(1, age_hours=1000), 0, KeepRule(1, size_bytes=0), []),
        # Restored to step 2: it stays, with the last 7 others.
        (rows(20, age_hours=25), 2, KeepRule(8), [0, 1, *range(3, 13)]),
        (rows(3, age_hours=25), 0, KeepRule(1), [1, 2]),
    ],
)
def test_what_expires(held: list[StepRow], present: int, rule: KeepRule, gone: list[int]) -> None:
    assert sorted(row.step for row in expired_steps(held, present, rule, NOW)) == gone
