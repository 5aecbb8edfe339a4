"""CISPO: J = 1/(sum_i T_i) sum_it sg(min(r_it, 1 + eh)) A_i log pi_theta. MiniMax 2025, arXiv 2506.13585.

The importance weight is capped, not the gradient: rare decisions keep learning where PPO's clip silences them. The
paper caps above only; clip_low has no effect.
"""

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms

AGGREGATION = Aggregation.TOKEN_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """-sg(min(r, 1 + eh)) A log pi per decision."""
    ratio_N = terms.log_ratio().exp().detach()
    cap = 1.0 + parameters.clip_high
    return LossTerms(-ratio_N.clamp(max=cap) * terms.advantage_N * terms.logprob_N, ratio_N > cap)
