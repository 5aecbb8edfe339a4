"""REINFORCE with the group's mean as baseline: J = mean_t A_i log pi_theta. Williams 1992, doi 10.1007/BF00992696.

No importance weight and no clip: right on policy only, and with a stale batch it is biased.
"""

import torch

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms

AGGREGATION = Aggregation.TOKEN_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """-A log pi per decision; `parameters` has no effect."""
    del parameters
    return LossTerms(-terms.advantage_N * terms.logprob_N, torch.zeros_like(terms.logprob_N, dtype=torch.bool))
