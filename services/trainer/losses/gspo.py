"""GSPO: J = 1/G sum_i min(s_i A_i, clip(s_i) A_i), s_i = exp(1/T_i sum_t log r_it). Zheng 2025, arXiv 2507.18071.

One ratio per rollout, the geometric mean over its decisions. The paper's clip is narrow (el 3e-4, eh 4e-4) because a
mean log-ratio varies far less than a single one: give clip_low and clip_high accordingly.
"""

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms, clipped_surrogate

AGGREGATION = Aggregation.SEQUENCE_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """The rollout's term, repeated for each of its decisions; SEQUENCE_MEAN then counts it once."""
    ratio_N = terms.rollout_mean(terms.log_ratio()).exp()
    return clipped_surrogate(ratio_N, terms.advantage_N, parameters)
