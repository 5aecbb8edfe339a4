"""Alarms: each by the figure that raises it, none on a healthy step, and all of them in the documentation."""

from pathlib import Path

import pytest

from moontune.values.training import TrainSettings
from services.trainer.alarms import RULES, alarms

HEALTHY = {
    "dead_group_share": 0.3, "n_groups": 8.0, "no_score_share": 0.0, "mismatch_kl": 1e-4, "stale_groups": 0.0,
    "truncated_share": 0.1, "grad_norm": 0.7, "entropy": 1.2,
}  # fmt: skip
RAISED = {
    "dead_groups": {"dead_group_share": 0.9},
    "no_scores": {"no_score_share": 0.5},
    "sampler_mismatch": {"mismatch_kl": 0.2},
    "stale": {"stale_groups": 1.0},
    "truncated": {"truncated_share": 0.6},
    "gradient_spike": {"grad_norm": 101.0},
    "collapse": {"entropy": 0.001},
}


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_each_alarm_by_its_figure(name: str) -> None:
    found = alarms({**HEALTHY, **RAISED[name]}, TrainSettings(max_grad_norm=1.0))
    assert [(alarm.name, alarm.value) for alarm in found] == [(name, next(iter(RAISED[name].values())))]
    assert found[0].likely_cause


def test_a_healthy_step_raises_none() -> None:
    assert alarms(HEALTHY, TrainSettings()) == ()
    assert alarms({}, TrainSettings()) == ()
    assert alarms({**HEALTHY, "dead_group_share": 1.0, "n_groups": 1.0}, TrainSettings()) == ()  # one says little


def test_every_alarm_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text()
    assert [rule.name for rule in RULES if f"| `{rule.name}` |" not in text] == []
