"""The decisions of a micro-batch, flat, with what is known of each before the forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.model.scoring import ScoredBatch, ScoringGroup
from moontune.values.rollout import Decision, Head
from services.trainer.batch import Piece


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """N decisions of R attempts.

    at_N: their places among all decisions of the scored batch. taken: themselves. rollout_N: index 0..R-1 of each
    decision's attempt. advantage_N, weight_N: of its attempt. recorded_N: log-probabilities as sampled.
    verified_N: whether that record can be trusted. keys: (group's place, attempt's place) of each of the R attempts.
    """

    at_N: Tensor
    taken: list[Decision]
    rollout_N: Tensor
    advantage_N: Tensor
    weight_N: Tensor
    recorded_N: Tensor
    verified_N: Tensor
    keys: list[tuple[int, int]]
    counts: list[int]

    @property
    def heads(self) -> list[Head]:
        """One entry a decision."""
        return [decision.head for decision in self.taken]

    @property
    def rollouts(self) -> int:
        """R."""
        return len(self.keys)


def decided(
    pieces: Sequence[Piece], scoring: Sequence[ScoringGroup], scored: ScoredBatch, *, supervised: bool
) -> Decided | None:
    """The decisions of the supervised or of the reinforced pieces of a batch; None where there are none."""
    places: list[int] = []
    taken: list[Decision] = []
    keys: list[tuple[int, int]] = []
    counts: list[int] = []
    numbers: list[tuple[float, float, bool]] = []
    for piece, group, spans in zip(pieces, scoring, scored.spans, strict=True):
        if piece.group.supervised is not supervised:
            continue
        plan = piece.group
        for index, attempt, span in zip(piece.attempts, group.rollouts, spans, strict=True):
            places += range(span.start, span.stop)
            taken += attempt.decisions
            keys.append((plan.index, index))
            counts.append(len(attempt.decisions))
            numbers.append((plan.advantages[index], plan.weights[index], plan.verified[index]))
    if not taken:
        return None
    device, dtype = scored.logprobs_M.device, scored.logprobs_M.dtype
    rollout_N = torch.repeat_interleave(torch.tensor(counts, device=device))
    advantage_R, weight_R, verified_R = (torch.tensor(column, device=device) for column in zip(*numbers, strict=True))
    return Decided(
        torch.tensor(places, device=device),
        taken,
        rollout_N,
        advantage_R.to(dtype)[rollout_N],
        weight_R.to(dtype)[rollout_N],
        torch.tensor([decision.logprob for decision in taken], device=device, dtype=dtype),
        verified_R[rollout_N],
        keys,
        counts,
    )
