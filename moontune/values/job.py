"""A job: the loop, driven by the service from a config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from moontune.values.finetune import LoraSettings
from moontune.values.reward import RewardSpec
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings


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
