"""A job: the loop, driven by the service from a config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial

from moontune.errors import FieldViolation, InvalidField
from moontune.values.finetune import LoraSettings
from moontune.values.reward import RewardSpec
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import TRAINABLE_SKILLS, Skill
from moontune.values.training import MAX_GROUPS, TrainSettings


class JobState(StrEnum):
    """queued -> validating -> running <-> paused -> succeeded, failed or cancelled."""

    QUEUED = "queued"
    VALIDATING = "validating"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


ENDED_STATES = (JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED)


class Schedule(StrEnum):
    """How the learning rate goes over a job's steps."""

    CONSTANT = "constant"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where samples come from: a path or URL on the service's side, a dataset's id, and the labels to use.

    path: a COCO JSON (its images beside it) or a moontune JSONL. object: what point and detect ask for.
    category: only boxes of this COCO category are ground truth; "" takes all of them.
    """

    path: str
    object: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class JobConfig:
    """Everything a reinforcement job needs; unknown keys in a config file are errors.

    steps: optimiser steps. groups_per_step x rollouts_per_group attempts are made for each.
    warmup_steps: the learning rate rises linearly over these. evaluate_every: steps between held-out evaluations;
    0 evaluates before and after only. shuffle_rewards: the control; rewards are permuted over a step's rollouts.
    """

    name: str
    skill: Skill
    train: DatasetSource
    held_out: DatasetSource
    reward: RewardSpec
    steps: int
    lora: LoraSettings = field(default_factory=LoraSettings)
    settings: TrainSettings = field(default_factory=TrainSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    groups_per_step: int = 8
    rollouts_per_group: int = 8
    schedule: Schedule = Schedule.LINEAR
    warmup_steps: int = 10
    evaluate_every: int = 0
    seed: int = 0
    shuffle_rewards: bool = False

    def validate(self, field: str = "config") -> None:
        """Raise one InvalidField with every value that is out of range."""
        violations: list[FieldViolation] = []
        for check in self._checks(field):
            try:
                check()
            except InvalidField as error:
                violations.extend(error.violations)
        if violations:
            message = "; ".join(violation.description for violation in violations)
            raise InvalidField(message, metadata={"field": violations[0].field}, violations=violations)

    def _checks(self, field: str) -> list[Callable[[], None]]:
        ranges = {
            "steps": (self.steps, 1, 100_000),
            "groups_per_step": (self.groups_per_step, 1, MAX_GROUPS),
            "rollouts_per_group": (self.rollouts_per_group, 2, 64),
            "warmup_steps": (self.warmup_steps, 0, 1_000_000),
            "evaluate_every": (self.evaluate_every, 0, 1_000_000),
            "seed": (self.seed, 0, 2**64 - 1),
        }
        return [
            partial(_require, f"{field}.name", self.name, 0 < len(self.name.strip()) <= 128, "1 to 128 characters"),
            partial(
                _require, f"{field}.skill", str(self.skill), self.skill in TRAINABLE_SKILLS, "query, point, detect"
            ),
            partial(_require, f"{field}.train.path", self.train.path, bool(self.train.path), "a path or URL"),
            partial(_require, f"{field}.held_out.path", self.held_out.path, bool(self.held_out.path), "a path or URL"),
            partial(_require, f"{field}.reward.components", 0, bool(self.reward.components), "one component or more"),
            *(
                partial(_require, f"{field}.{name}", value, low <= value <= high, f"{low} to {high}")
                for name, (value, low, high) in ranges.items()
            ),
            partial(
                _require,
                f"{field}.sampling.temperature",
                self.sampling.temperature,
                self.sampling.temperature > 0.0,
                "more than 0: greedy attempts are all alike and teach nothing",
            ),
            partial(self.lora.validate, f"{field}.lora"),
            partial(self.settings.validate, f"{field}.settings"),
            partial(self.sampling.validate, f"{field}.sampling"),
        ]


def _require(field: str, given: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise InvalidField.of(field, given, allowed)


@dataclass(frozen=True, slots=True)
class JobProgress:
    """One point of a job's history; metrics by registered name."""

    sequence: int
    step: int
    total_steps: int
    stage: str
    message: str
    metrics: Mapping[str, float]
    logged_at: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """A durable job. model: the model string it serves under, once saved. detail: why it failed."""

    id: str
    organisation: str
    config: JobConfig
    state: JobState
    step: int
    created_at: datetime
    updated_at: datetime
    finetune_id: str = ""
    model: str = ""
    detail: str = ""
    results: Mapping[str, float] = field(default_factory=dict[str, float])


JobEvent = Job | JobProgress
"""What WatchJob tells: the job as it is, or one point of its history."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A config to start from, without datasets; the description gives the reasons for its numbers."""

    name: str
    description: str
    config: JobConfig
