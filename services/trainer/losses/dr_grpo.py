"""Dr.GRPO: J = 1/(G L) sum_i sum_t min(r_it A_i, clip(r_it) A_i), A_i = R_i - mean. Liu et al. 2025, arXiv 2503.20783.

L is a constant (the request's limit on decisions), not the rollout's length: long wrong answers are not favoured.
"""

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms, clipped_surrogate

AGGREGATION = Aggregation.CONSTANT


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """The clipped surrogate per decision; what differs from GRPO is the aggregation."""
    return clipped_surrogate(terms.log_ratio().exp(), terms.advantage_N, parameters)
