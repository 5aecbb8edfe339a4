"""Cross-entropy: J = mean_t log pi_theta(y_t | x, y_<t) over the decisions y of a right answer. Teacher forcing.

The decisions are those that generation would take on the way to the answer (`services/trainer/sft.py`): tokens and the
end of text, go-on and stop, coordinates and sizes. As a policy gradient it is REINFORCE with the answer as the only
rollout and advantage 1.
"""

import torch

from moontune.values.training import Aggregation
from services.trainer.losses.terms import LossParameters, LossTerms, PolicyTerms

AGGREGATION = Aggregation.TOKEN_MEAN


def loss(terms: PolicyTerms, parameters: LossParameters) -> LossTerms:
    """-log pi per decision; neither the anchor nor `parameters` has an effect."""
    del parameters
    return LossTerms(-terms.logprob_N, torch.zeros_like(terms.logprob_N, dtype=torch.bool))
