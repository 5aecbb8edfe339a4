"""The gap between sampler and learner: which policy the ratio is taken against, and which rollouts are left out.

Three policies: mu sampled (recorded log-probabilities), pi_old is the learner before the step, pi_theta moves.
  OFF             ratio pi_theta / mu, nothing masked ("bypass": the record is the anchor)
  SEQUENCE_MASK   the same, but a rollout whose exp(mean_t log(pi_old / mu)) is outside [1 / band, band] is left out
  TOKEN_TRUNCATE  ratio pi_theta / pi_old, each term times min(pi_old / mu, band) ("decoupled", 2110.00641)
Unverified groups have no record that can be trusted: anchor pi_old, no mask.

The mask is fixed by the first pass. A masked rollout stays in the denominators: its share is reported, and the other
rollouts' gradient does not depend on whether it was masked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.values.training import SamplerCorrection
from services.trainer.losses.terms import MAX_LOG_RATIO


@dataclass(frozen=True, slots=True)
class Corrected:
    """anchor_N: log-probabilities for the ratio. factor_N: of each term, 0 if masked. masked_R: rollouts left out."""

    anchor_N: Tensor
    factor_N: Tensor
    masked_R: Tensor


def mean_log_ratio(old_N: Tensor, recorded_N: Tensor, rollout_N: Tensor, rollouts: int) -> Tensor:
    """mean_t (log pi_old - log mu) of each rollout; 0 for one without decisions."""
    zeros_R = old_N.new_zeros(rollouts)
    sums_R = zeros_R.index_add(0, rollout_N, (old_N - recorded_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    counts_R = zeros_R.index_add(0, rollout_N, torch.ones_like(old_N))
    return sums_R / counts_R.clamp(min=1.0)


def correct(
    mode: SamplerCorrection, band: float, old_N: Tensor, recorded_N: Tensor, rollout_N: Tensor, rollouts: int
) -> Corrected:
    """Anchor, factor and mask of the decisions of verified rollouts.

    Args:
        mode: what is done.
        band: more than 1; the mask's width, or the truncation.
        old_N: log-probabilities under the learner before the step, no gradient.
        recorded_N: log-probabilities as sampled.
        rollout_N: index 0..rollouts-1 of each decision's rollout.
        rollouts: how many.
    """
    ones_N, none_R = torch.ones_like(old_N), torch.zeros(rollouts, dtype=torch.bool, device=old_N.device)
    if mode is SamplerCorrection.OFF:
        return Corrected(recorded_N, ones_N, none_R)
    if mode is SamplerCorrection.TOKEN_TRUNCATE:
        ratio_N = (old_N - recorded_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        return Corrected(old_N, ratio_N.clamp(max=band), none_R)
    ratio_R = mean_log_ratio(old_N, recorded_N, rollout_N, rollouts).exp()
    masked_R = (ratio_R > band) | (ratio_R < 1.0 / band)
    return Corrected(recorded_N, (~masked_R)[rollout_N].to(old_N.dtype), masked_R)


def uncorrected(old_N: Tensor, rollouts: int) -> Corrected:
    """For unverified rollouts: the ratio starts at 1."""
    return Corrected(old_N, torch.ones_like(old_N), torch.zeros(rollouts, dtype=torch.bool, device=old_N.device))
