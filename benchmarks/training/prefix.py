"""One gradient with image and prompt once per group, against both once per rollout, as a plain trainer has it."""

import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.training.groups import groups
from benchmarks.training.learner import SETTINGS, Steps
from moontune.model.base_model import BaseModel
from moontune.values.skill import Skill
from services.trainer.batch import BatchPlan, Piece, plan_batch
from services.trainer.health import StepHealth
from services.trainer.images import StepImages
from services.trainer.line import Line
from services.trainer.losses import LOSSES
from services.trainer.orders import LearnerOptions
from services.trainer.passes import BatchPass
from services.trainer.prepared import StepGroups
from services.trainer.recompute import Recompute

COUNT, ROLLOUTS, LENGTH, MICRO_TOKENS = 4, 8, 3, 4096


class AnewEachTime(StepImages):
    """Keeps no image: each rollout's is encoded by itself."""

    def base_embeds(self, sha256: str, field: str) -> Tensor | None:
        """As `StepImages`, without its memory."""
        with torch.no_grad():
            return self._encode(sha256, field) if sha256 else None


def measure(base: BaseModel, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of both ways, interleaved: `once` and `per_rollout`."""
    work = Steps(base, folder, LearnerOptions())
    spool = work.spool(groups(Skill.DETECT, COUNT, ROLLOUTS, LENGTH))
    own, adapters = work.learner._base, work.learner._adapters
    read = StepGroups(spool, SETTINGS, 1, own.config, own.tokenizer)
    plan = plan_batch(read, COUNT, Line({0: ""}), SETTINGS, LOSSES[SETTINGS.loss][1])
    arms = {"once": (StepImages, _whole(plan)), "per_rollout": (AnewEachTime, _single(plan))}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    adapters.activate(adapters.names[0])
    for turn in range(rounds + 1):
        for name, (kind, pieces) in arms.items():
            images = kind(own.module, spool, 2**28, trained=False)
            one_pass = BatchPass(own, adapters, read, images, SETTINGS, StepHealth(), Recompute([], 2**40))
            started = time.perf_counter()
            one_pass.run(pieces)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _whole(plan: BatchPlan) -> list[Piece]:
    return [Piece(group, group.kept) for group in plan.groups]


def _single(plan: BatchPlan) -> list[Piece]:
    return [Piece(group, (index,)) for group in plan.groups for index in group.kept]
