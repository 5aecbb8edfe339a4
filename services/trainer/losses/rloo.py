"""RLOO: J = 1/G sum_i A_i log pi(o_i), A_i = R_i - mean_{j != i} R_j. Ahmadian et al. 2024, arXiv 2402.14740.

The rollout is one action: its log-probability is the sum over its decisions. The leave-one-out baseline is in
`advantages.py`. No importance weight and no clip.
"""

import torch

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms

AGGREGATION = Aggregation.SEQUENCE_SUM


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """-A log pi per decision, to be summed over the rollout; `parameters` has no effect."""
    del parameters
    return LossTerms(-terms.advantage_N * terms.logprob_N, torch.zeros_like(terms.logprob_N, dtype=torch.bool))
