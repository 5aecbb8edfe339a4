"""GRPO: J = 1/G sum_i 1/T_i sum_t min(r_it A_i, clip(r_it, 1 - el, 1 + eh) A_i). Shao et al. 2024, arXiv 2402.03300.

The paper's KL term (beta k3) is added by the step where `kl_weight` asks for it, in a gradient-correct form.
"""

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms, clipped_surrogate

AGGREGATION = Aggregation.SEQUENCE_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """The clipped surrogate per decision; each rollout weighs the same whatever its length."""
    return clipped_surrogate(terms.log_ratio().exp(), terms.advantage_N, parameters)
