"""DAPO: J = 1/(sum_i T_i) sum_i sum_t min(r_it A_i, clip(r_it, 1 - el, 1 + eh) A_i). Yu et al. 2025, arXiv 2503.14476.

The mean is over the decisions of the whole batch, and eh > el lets rare decisions grow (clip-higher). Groups without
signal are left out before they reach any loss here.
"""

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms, clipped_surrogate

AGGREGATION = Aggregation.TOKEN_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """The clipped surrogate per decision; every decision of the batch weighs the same."""
    return clipped_surrogate(terms.log_ratio().exp(), terms.advantage_N, parameters)
