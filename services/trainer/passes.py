"""One pass over a step's batch: micro-batch by micro-batch, forward, loss, backward; gradients add up.

The denominators are in the groups' weights already, so micro-batches simply add. What the first pass sees (the
log-probabilities before any update) fixes the ratio's anchor and the mask for later passes.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from moontune.errors import NonFiniteStep
from moontune.model.base_model import BaseModel
from moontune.model.lora import Adapters
from moontune.model.scoring import ScoredBatch, ScoringGroup, ScoringRollout, score_groups
from moontune.telemetry.names import TrainKey
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings
from services.trainer import kl
from services.trainer.batch import Piece
from services.trainer.correction import Corrected, correct, uncorrected
from services.trainer.decided import Decided, decided
from services.trainer.entropy import entropies
from services.trainer.health import StepHealth
from services.trainer.images import StepImages
from services.trainer.losses import LOSSES, SUPERVISED, LossParameters, PolicyTerms
from services.trainer.prepared import StepGroups
from services.trainer.recompute import Recompute


class Cancellable(Protocol):
    """The part of a worker's call context that training uses."""

    def cancelled(self) -> bool:
        """Whether the caller has left; asked before each micro-batch."""
        ...


class BatchPass:
    """Everything a pass needs, bound once per step."""

    def __init__(
        self,
        base: BaseModel,
        adapters: Adapters,
        groups: StepGroups,
        images: StepImages,
        settings: TrainSettings,
        health: StepHealth,
        recompute: Recompute,
    ) -> None:
        self._base, self._adapters, self._groups, self._images = base, adapters, groups, images
        self._settings, self._health, self._recompute = settings, health, recompute
        self._loss, _ = LOSSES[settings.loss]
        self._parameters = LossParameters(settings.clip_low, settings.clip_high, settings.dual_clip)
        self._entropy_on = settings.entropy_weight > 0 or any(each.weight > 0 for each in settings.entropy_heads)
        self._before: dict[tuple[int, int], Tensor] = {}
        self._kl_measured: set[Skill] = set()

    def run(self, pieces: Sequence[Piece]) -> None:
        """Forward and backward of one micro-batch; gradients are added to what is there.

        Raises:
            NonFiniteStep: the loss is not finite; names the groups.
        """
        health = self._health
        self._recompute.choose(len(pieces) * max(piece.positions for piece in pieces))
        with health.timed(TrainKey.SECONDS_FORWARD):
            scoring = [self._scoring_group(piece) for piece in pieces]
            exact = (
                self._settings.kl_weight > 0
                or self._entropy_on
                or not {piece.group.skill for piece in pieces} <= self._kl_measured
            )
            scored = score_groups(self._base.module, scoring, distributions=exact)
            loss = self._reinforced(pieces, scoring, scored) + self._supervised(pieces, scoring, scored)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteStep(f"the loss is not finite in {named(pieces)}; nothing was applied")
        with health.timed(TrainKey.SECONDS_BACKWARD):
            if loss.requires_grad:
                loss.backward()  # pyright: ignore[reportUnknownMemberType]

    def release(self, images: Collection[str]) -> None:
        """Let go of images that no later micro-batch looks at."""
        self._images.release(images)

    def _scoring_group(self, piece: Piece) -> ScoringGroup:
        prepared = self._groups.read(piece.group.index)
        request = prepared.group.request
        attempts = [prepared.attempts[index] for index in piece.attempts]
        return ScoringGroup(
            skill=request.skill,
            prompt=prepared.prompt,
            rollouts=tuple(
                ScoringRollout(attempt.decisions, attempt.temperature, attempt.thinking_count) for attempt in attempts
            ),
            image_embeds_PD=self._images.embeds(piece.group.image, f"groups[{piece.group.index}].request.image"),
            reasoning=request.reasoning,
        )

    def _reinforced(self, pieces: Sequence[Piece], scoring: Sequence[ScoringGroup], scored: ScoredBatch) -> Tensor:
        batch = decided(pieces, scoring, scored, supervised=False)
        if batch is None:
            return scored.logprobs_M.new_zeros(())
        logprob_N = scored.logprobs_M[batch.at_N]
        fixed = self._corrected(logprob_N.detach(), batch)
        terms = PolicyTerms(logprob_N, fixed.anchor_N, batch.advantage_N, batch.rollout_N, batch.rollouts)
        result = self._loss(terms, self._parameters)
        self._health.by_head("clip_share", result.clipped_N.float(), batch.heads)
        self._health.by_head("entropy", scored.entropies_M[batch.at_N], batch.heads)
        self._health.mean(TrainKey.RATIO_MEAN, terms.log_ratio().exp())
        self._health.mean(TrainKey.MASKED_SHARE, fixed.masked_R.float())
        loss = (batch.weight_N * result.loss_N * fixed.factor_N).sum()
        self._health.total(TrainKey.LOSS, float(loss.detach()) / self._settings.passes)
        return loss + self._regularised(pieces, scoring, scored, batch)

    def _supervised(self, pieces: Sequence[Piece], scoring: Sequence[ScoringGroup], scored: ScoredBatch) -> Tensor:
        batch = decided(pieces, scoring, scored, supervised=True)
        if batch is None:
            return scored.logprobs_M.new_zeros(())
        logprob_N = scored.logprobs_M[batch.at_N]
        terms = PolicyTerms(logprob_N, logprob_N.detach(), torch.ones_like(logprob_N), batch.rollout_N, batch.rollouts)
        loss_of, _ = SUPERVISED
        loss = (batch.weight_N * loss_of(terms, self._parameters).loss_N).sum()
        self._health.total(TrainKey.SFT_LOSS, float(loss.detach()) / self._settings.passes)
        return self._settings.sft_weight * loss

    def _regularised(
        self, pieces: Sequence[Piece], scoring: Sequence[ScoringGroup], scored: ScoredBatch, batch: Decided
    ) -> Tensor:
        """The entropy bonus and the KL to the base, where they are on; else the KL as a health figure alone."""
        loss = scored.logprobs_M.new_zeros(())
        if self._entropy_on:
            weights = [self._settings.entropy_weight_of(head) for head in batch.heads]
            head_weight_N = torch.tensor(weights, device=loss.device, dtype=loss.dtype)
            loss = loss - (head_weight_N * batch.weight_N * entropies(scored)[batch.at_N]).sum()
        if self._settings.kl_weight > 0:
            kl_N = kl.to_reference(scored, self._reference(pieces, scoring))[batch.at_N]
            self._health.by_head("kl", kl_N, batch.heads)
            return loss + self._settings.kl_weight * (batch.weight_N * kl_N).sum()
        for piece, group, spans in zip(pieces, scoring, scored.spans, strict=True):
            if not piece.group.supervised and group.skill not in self._kl_measured:
                self._kl_measured.add(group.skill)
                self._measure_kl(piece, group, scored.part(spans[0].start, spans[-1].stop))
        return loss

    def _measure_kl(self, piece: Piece, group: ScoringGroup, scored: ScoredBatch) -> None:
        """The health figure of one piece of each skill: a forward pass of it."""
        with torch.no_grad():
            kl_M = kl.to_reference(scored, self._reference([piece], [group]))
        self._health.by_head("kl", kl_M, [decision.head for each in group.rollouts for decision in each.decisions])

    def _reference(self, pieces: Sequence[Piece], scoring: Sequence[ScoringGroup]) -> ScoredBatch:
        """The same decisions under the bare base, which sees the image with its own eyes."""
        with torch.no_grad(), self._adapters.off():
            seen = [
                replace(group, image_embeds_PD=self._images.base_embeds(piece.group.image, ""))
                for piece, group in zip(pieces, scoring, strict=True)
            ]
            return score_groups(self._base.module, seen, distributions=True)

    def _corrected(self, now_N: Tensor, batch: Decided) -> Corrected:
        """Anchor and mask by the log-probabilities of the first pass, which is this one if none was before."""
        for key, now in zip(batch.keys, torch.split(now_N, batch.counts), strict=True):
            self._before.setdefault(key, now.cpu())
        old_N = torch.cat([self._before[key] for key in batch.keys]).to(now_N.device)
        if self._settings.passes == 1:
            self._before.clear()  # nobody comes by again
        seen_N = batch.verified_N
        self._health.mismatch(old_N[seen_N], batch.recorded_N[seen_N])
        trusted = correct(
            self._settings.correction,
            self._settings.mask_band,
            old_N,
            torch.where(seen_N, batch.recorded_N, old_N),
            batch.rollout_N,
            batch.rollouts,
        )
        fresh = uncorrected(old_N, batch.rollouts)
        return Corrected(
            torch.where(seen_N, trusted.anchor_N, fresh.anchor_N),
            torch.where(seen_N, trusted.factor_N, fresh.factor_N),
            trusted.masked_R,
        )


def named(pieces: Sequence[Piece]) -> str:
    """The groups of a micro-batch, as an error names them."""
    return ", ".join(f"groups[{index}]" for index in sorted({piece.group.index for piece in pieces}))
