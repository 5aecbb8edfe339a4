"""PPO-clip: J = mean_t min(r_t A_t, clip(r_t, 1 - el, 1 + eh) A_t). Schulman et al. 2017, arXiv 1707.06347.

Without a critic: the advantage is the group's. With `dual_clip` c, for A < 0 the term is max(that, c A), which bounds
what a very unlikely decision can cost (Ye et al. 2019, arXiv 1912.09729).
"""

import torch

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms, clipped_surrogate

AGGREGATION = Aggregation.TOKEN_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """The clipped surrogate per decision, bounded from below for negative advantages where dual clip is on."""
    single = clipped_surrogate(terms.log_ratio().exp(), terms.advantage_N, parameters)
    if parameters.dual_clip is None:
        return single
    bound_N = -parameters.dual_clip * terms.advantage_N
    acts_N = (terms.advantage_N < 0.0) & (single.loss_N > bound_N)
    return LossTerms(torch.where(acts_N, bound_N, single.loss_N), single.clipped_N | acts_N)
