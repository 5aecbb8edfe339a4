"""What every policy-gradient loss takes and gives: one signature for all of them.

Decisions of several rollouts lie flat, one after the other: N decisions of R rollouts. A loss returns a term per
decision; `aggregation.decision_weights` turns them into a number. No loss averages anything itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before exp: e^20 is far beyond any clip, and stays finite in fp32."""


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """Inputs of a loss.

    logprob_N: log-probability of each decision under the policy being trained; carries the gradient.
    anchor_N: under the policy that the ratio is taken against (recorded by the sampler, or recomputed); no gradient.
    advantage_N: of the decision's rollout.
    rollout_N: index 0..R-1 of each decision's rollout, int64.
    rollouts: R.
    """

    logprob_N: Tensor
    anchor_N: Tensor
    advantage_N: Tensor
    rollout_N: Tensor
    rollouts: int

    def log_ratio(self) -> Tensor:
        """Log pi_theta - log pi_anchor per decision, clamped to +-MAX_LOG_RATIO."""
        return (self.logprob_N - self.anchor_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    def rollout_mean(self, values_N: Tensor) -> Tensor:
        """The mean of a per-decision value over its rollout, repeated for each decision of that rollout."""
        zeros_R = values_N.new_zeros(self.rollouts)
        sums_R = zeros_R.index_add(0, self.rollout_N, values_N)
        counts_R = zeros_R.index_add(0, self.rollout_N, torch.ones_like(values_N))
        return (sums_R / counts_R.clamp(min=1.0))[self.rollout_N]


@dataclass(frozen=True, slots=True)
class LossParameters:
    """clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]. dual_clip: c > 1, or None for off."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None


@dataclass(frozen=True, slots=True)
class LossTerms:
    """loss_N: term per decision, to be minimised. clipped_N: where the clip took the gradient away or capped it."""

    loss_N: Tensor
    clipped_N: Tensor


Loss = Callable[[PolicyTerms, LossParameters], LossTerms]


def clipped_surrogate(ratio_N: Tensor, advantage_N: Tensor, parameters: LossParameters) -> LossTerms:
    """-min(r A, clip(r, 1 - el, 1 + eh) A), the core of PPO (1707.06347) and of most losses here."""
    bounded_N = ratio_N.clamp(1.0 - parameters.clip_low, 1.0 + parameters.clip_high)
    free_N, capped_N = ratio_N * advantage_N, bounded_N * advantage_N
    return LossTerms(-torch.minimum(free_N, capped_N), (capped_N < free_N).detach())
