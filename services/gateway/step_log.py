"""What a step reported, put together from the points of a finetune's history."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from moontune.telemetry.names import TrainKey
from moontune.values.finetune import MetricPoint


@dataclass(frozen=True, slots=True)
class StepLog:
    """One applied step: how many groups of each kind it had, and its figures by registered name."""

    step: int
    rl_groups: int
    sft_groups: int
    metrics: Mapping[str, float]


class HistorySource(Protocol):
    """Where the points are."""

    async def metric_points(self, finetune_id: str, after_step: int, last_step: int) -> Sequence[MetricPoint]:
        """Every point of the steps after after_step, up to last_step."""
        ...


async def read_logs(source: HistorySource, finetune_id: str, after_step: int, last_step: int) -> list[StepLog]:
    """The applied steps after after_step, up to last_step; a step made anew shows its last figures."""
    by_step: dict[int, dict[str, float]] = defaultdict(dict)
    for point in await source.metric_points(finetune_id, after_step, last_step):
        by_step[point.step][point.name] = point.value
    return [
        StepLog(step, int(found[TrainKey.N_GROUPS]), int(found.get(TrainKey.N_SFT_GROUPS, 0.0)), found)
        for step, found in by_step.items()
        if TrainKey.N_GROUPS in found  # a step at which only the caller logged something was not applied
    ]
