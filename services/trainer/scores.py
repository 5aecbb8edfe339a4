"""Scoring rollouts without training: log-probability and entropy of every decision, one group at a time."""

from typing import cast

import torch

from moontune.errors import Cancelled
from moontune.model.base_model import BaseModel
from moontune.model.scoring import ScoringGroup, ScoringRollout, score_groups
from moontune.values.logprobs import DecisionScore
from moontune.values.training import RlGroup
from services.trainer.images import StepImages
from services.trainer.orders import LearnerOptions
from services.trainer.passes import Cancellable
from services.trainer.prepared import rollout_attempts, shared_prompt
from services.trainer.spool import Spool


def score_spool(
    ctx: Cancellable, base: BaseModel, spool: Spool, groups: int, options: LearnerOptions
) -> tuple[tuple[DecisionScore, ...], ...]:
    """One entry per rollout, in order; with whatever adapter is active."""
    images = StepImages(base.module, spool, options.image_cache_bytes, trained=False)
    found: list[tuple[DecisionScore, ...]] = []
    for index in range(groups):
        if ctx.cancelled():
            raise Cancelled("the caller left")
        group = spool.group(index)
        assert isinstance(group, RlGroup)
        prompt, _ = shared_prompt(group, f"batches[{index}]", base.config, base.tokenizer)
        rollout_attempts(group, f"batches[{index}].rollouts", "", base.config)  # raises for what cannot be scored
        image = group.request.image
        scoring = ScoringGroup(
            group.request.skill,
            prompt,
            tuple(ScoringRollout.of(rollout) for rollout in group.rollouts),
            images.embeds(image.sha256 if image else "", f"batches[{index}].request.images[0]"),
            group.request.reasoning,
        )
        with torch.no_grad():
            scored = score_groups(base.module, [scoring])
        logprobs = cast("list[float]", scored.logprobs_M.tolist())
        entropies = cast("list[float]", scored.entropies_M.tolist())
        scores = [DecisionScore(min(logprob, 0.0), each) for logprob, each in zip(logprobs, entropies, strict=True)]
        found.extend(tuple(scores[span]) for span in scored.spans[0])
    return tuple(found)
