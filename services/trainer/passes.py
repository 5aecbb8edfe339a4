"""One pass over a step's batch: micro-batch by micro-batch, forward, loss, backward; gradients add up.

The denominators are in the groups' weights already, so micro-batches simply add. What the first pass sees (the
log-probabilities before any update) fixes the ratio's anchor and the mask for later passes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moontune.errors import NonFiniteStep
from moontune.model.base_model import BaseModel
from moontune.model.lora import Adapters
from moontune.model.prompt import build_prompt
from moontune.model.scoring import ScoredBatch, ScoringGroup, ScoringRollout, score_groups
from moontune.telemetry.names import TrainKey
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill
from moontune.values.training import Group, RlGroup, TrainSettings
from services.trainer import kl
from services.trainer.batch import PlannedGroup, group_decisions
from services.trainer.correction import Corrected, correct, uncorrected
from services.trainer.health import StepHealth
from services.trainer.images import StepImages
from services.trainer.losses import LOSSES, LossParameters, PolicyTerms
from services.trainer.spool import Spool


class Cancellable(Protocol):
    """The part of a worker's call context that training uses."""

    def cancelled(self) -> bool:
        """Whether the caller has left; asked before each micro-batch."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """Decisions of some groups, flat: N of them in R rollouts, with what is known of each before the forward pass."""

    taken: list[Decision]
    rollout_N: Tensor
    advantage_N: Tensor
    weight_N: Tensor
    recorded_N: Tensor
    verified_N: Tensor
    group_of_rollout: list[int]

    @property
    def heads(self) -> list[Head]:
        """One entry a decision."""
        return [decision.head for decision in self.taken]

    @property
    def rollouts(self) -> int:
        """R."""
        return len(self.group_of_rollout)


class BatchPass:
    """Everything a pass needs, bound once per step."""

    def __init__(
        self,
        base: BaseModel,
        adapters: Adapters,
        spool: Spool,
        images: StepImages,
        settings: TrainSettings,
        health: StepHealth,
    ) -> None:
        self._base, self._adapters, self._spool, self._images = base, adapters, spool, images
        self._settings, self._health = settings, health
        self._loss, _ = LOSSES[settings.loss]
        self._parameters = LossParameters(settings.clip_low, settings.clip_high)
        self._before: dict[int, Tensor] = {}
        self._kl_measured: set[Skill] = set()

    def run(self, planned: Sequence[PlannedGroup]) -> None:
        """Forward and backward of one micro-batch; gradients are added to what is there.

        Raises:
            NonFiniteStep: the loss is not finite; names the groups.
        """
        health = self._health
        with health.timed(TrainKey.SECONDS_FORWARD):
            groups = [self._spool.group(plan.index) for plan in planned]
            scoring = [self._scoring_group(plan, group) for plan, group in zip(planned, groups, strict=True)]
            exact = (
                self._settings.kl_weight > 0
                or self._settings.entropy_weight > 0
                or not {plan.skill for plan in planned} <= self._kl_measured
            )
            scored = score_groups(self._base.module, scoring, distributions=exact)
            loss = self._reinforced(planned, scoring, scored) + self._supervised(planned, scored)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteStep(f"the loss is not finite in {_named(planned)}; nothing was applied")
        with health.timed(TrainKey.SECONDS_BACKWARD):
            if loss.requires_grad:
                loss.backward()  # pyright: ignore[reportUnknownMemberType]

    def _scoring_group(self, plan: PlannedGroup, group: Group) -> ScoringGroup:
        base, request = self._base, group.request
        per_rollout = group_decisions(group, base.config, base.tokenizer, f"groups[{plan.index}]")
        temperatures = [rollout.temperature for rollout in group.rollouts] if isinstance(group, RlGroup) else [1.0]
        return ScoringGroup(
            skill=request.skill,
            prompt=build_prompt(request, base.config, base.tokenizer),
            rollouts=tuple(
                ScoringRollout(decisions, temperature, thinking)
                for (decisions, thinking), temperature, count in zip(
                    per_rollout, temperatures, plan.counts, strict=True
                )
                if count
            ),
            image_embeds_PD=self._images.embeds(plan.image, f"groups[{plan.index}].request.image"),
            reasoning=request.reasoning,
        )

    def _reinforced(
        self, planned: Sequence[PlannedGroup], scoring: Sequence[ScoringGroup], scored: ScoredBatch
    ) -> Tensor:
        mine = [g for g, plan in enumerate(planned) if not plan.supervised]
        at_N = _positions(scored, mine)
        if not len(at_N):
            return scored.logprobs_M.new_zeros(())
        at_N = at_N.to(scored.logprobs_M.device)
        batch = self._decisions(planned, scoring, mine, scored.logprobs_M)
        logprob_N = scored.logprobs_M[at_N]
        fixed = self._corrected(planned, mine, scored, logprob_N.detach(), batch)
        terms = PolicyTerms(logprob_N, fixed.anchor_N, batch.advantage_N, batch.rollout_N, batch.rollouts)
        result = self._loss(terms, self._parameters)
        term_N = result.loss_N * fixed.factor_N
        self._health.by_head("clip_share", result.clipped_N.float(), batch.heads)
        self._health.by_head("entropy", scored.entropies_M[at_N], batch.heads)
        self._health.mean(TrainKey.RATIO_MEAN, terms.log_ratio().exp())
        self._health.mean(TrainKey.MASKED_SHARE, fixed.masked_R.float())
        loss = (batch.weight_N * term_N).sum()
        self._health.total(TrainKey.LOSS, float(loss.detach()) / self._settings.passes)
        if self._settings.entropy_weight > 0:
            entropy_N = _entropies(scored)[at_N]
            loss = loss - self._settings.entropy_weight * (batch.weight_N * entropy_N).sum()
        if self._settings.kl_weight > 0:
            kl_N = self._kl(scoring, scored)[at_N]
            self._health.by_head("kl", kl_N, batch.heads)
            loss = loss + self._settings.kl_weight * (batch.weight_N * kl_N).sum()
        for g in mine:
            self._measure_kl(scoring[g], scored, g)
        return loss

    def _supervised(self, planned: Sequence[PlannedGroup], scored: ScoredBatch) -> Tensor:
        loss = scored.logprobs_M.new_zeros(())
        for g, plan in enumerate(planned):
            if plan.supervised:
                (span,) = scored.spans[g]
                loss = loss - plan.weights[0] * scored.logprobs_M[span].sum()
        if any(plan.supervised for plan in planned):
            self._health.total(TrainKey.SFT_LOSS, float(loss.detach()) / self._settings.passes)
        return self._settings.sft_weight * loss

    def _decisions(
        self,
        planned: Sequence[PlannedGroup],
        scoring: Sequence[ScoringGroup],
        mine: Sequence[int],
        like_M: Tensor,
    ) -> Decisions:
        taken: list[Decision] = []
        of_rollout: list[int] = []
        rollout: list[int] = []
        advantage: list[float] = []
        weight: list[float] = []
        verified: list[bool] = []
        for g in mine:
            plan = planned[g]
            kept = [index for index, count in enumerate(plan.counts) if count]
            for index, attempt in zip(kept, scoring[g].rollouts, strict=True):
                count = len(attempt.decisions)
                rollout += [len(of_rollout)] * count
                of_rollout.append(g)
                taken += attempt.decisions
                advantage += [plan.advantages[index]] * count
                weight += [plan.weights[index]] * count
                verified += [plan.verified] * count
        device, dtype = like_M.device, like_M.dtype
        return Decisions(
            taken,
            torch.tensor(rollout, device=device),
            torch.tensor(advantage, device=device, dtype=dtype),
            torch.tensor(weight, device=device, dtype=dtype),
            torch.tensor([decision.logprob for decision in taken], device=device, dtype=dtype),
            torch.tensor(verified, device=device),
            of_rollout,
        )

    def _corrected(
        self,
        planned: Sequence[PlannedGroup],
        mine: Sequence[int],
        scored: ScoredBatch,
        now_N: Tensor,
        batch: Decisions,
    ) -> Corrected:
        """Anchor and mask by the log-probabilities of the first pass, which is this one if none was before."""
        start = 0
        for g in mine:
            count = sum(span.stop - span.start for span in scored.spans[g])
            self._before.setdefault(planned[g].index, now_N[start : start + count].cpu())
            start += count
        old_N = torch.cat([self._before[planned[g].index] for g in mine]).to(now_N.device)
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

    def _measure_kl(self, group: ScoringGroup, scored: ScoredBatch, g: int) -> None:
        """Where it is off as a penalty: the health figure, from one group of each skill (a forward pass of it)."""
        if self._settings.kl_weight > 0 or group.skill in self._kl_measured:
            return
        self._kl_measured.add(group.skill)
        spans = scored.spans[g]
        with torch.no_grad(), self._adapters.off():
            reference = score_groups(self._base.module, [group], distributions=True)
        start, stop = spans[0].start, spans[-1].stop
        mine = {
            head: (at_N[inside] - start, logprobs_NK[inside])
            for head, (at_N, logprobs_NK) in scored.distributions.items()
            if bool((inside := (at_N >= start) & (at_N < stop)).any())
        }
        with torch.no_grad():
            kl_M = kl.k3(scored.logprobs_M[start:stop], reference.logprobs_M)
            kl_M = _replaced(kl_M, mine, reference.distributions)
        heads = [decision.head for rollout in group.rollouts for decision in rollout.decisions]
        self._health.by_head("kl", kl_M, heads)

    def _kl(self, scoring: Sequence[ScoringGroup], scored: ScoredBatch) -> Tensor:
        """KL to the base of each of the M decisions: exact over the bin and go heads, k3 (weighted) over tokens."""
        with torch.no_grad(), self._adapters.off():
            reference = score_groups(self._base.module, scoring, distributions=True)
        kl_M = kl.k3_weighted(scored.logprobs_M, reference.logprobs_M)
        return _replaced(kl_M, scored.distributions, reference.distributions)


def _replaced(
    kl_M: Tensor,
    distributions: Mapping[Head, tuple[Tensor, Tensor]],
    references: Mapping[Head, tuple[Tensor, Tensor]],
) -> Tensor:
    for head, (at_N, logprobs_NK) in distributions.items():
        kl_M = kl_M.index_put((at_N,), kl.exact(logprobs_NK, references[head][1]))
    return kl_M


def _entropies(scored: ScoredBatch) -> Tensor:
    """Entropy of each decision's distribution, with gradient.

    Exact for the bin and go heads. For tokens the gradient is -E[log pi grad log pi], so the term -sg(log pi) log pi
    has it in expectation (its value is not the entropy and is reported nowhere).
    """
    entropy_M = -scored.logprobs_M.detach() * scored.logprobs_M
    for at_N, logprobs_NK in scored.distributions.values():
        entropy_M = entropy_M.index_put((at_N,), -(logprobs_NK.exp() * logprobs_NK).sum(-1))
    return entropy_M


def _positions(scored: ScoredBatch, groups: Sequence[int]) -> Tensor:
    found = [torch.arange(span.start, span.stop) for g in groups for span in scored.spans[g]]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _named(planned: Sequence[PlannedGroup]) -> str:
    return ", ".join(f"groups[{index}]" for index in sorted(plan.index for plan in planned))
