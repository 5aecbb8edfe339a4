"""The entropy of decisions as a term of the loss."""

from torch import Tensor

from moontune.model.scoring import ScoredBatch


def entropies(scored: ScoredBatch) -> Tensor:
    """Entropy of the distribution of each of the M decisions, with gradient.

    Exact for the bin and go heads: H = -sum_c pi(c) log pi(c). For tokens the gradient is -E[log pi grad log pi], so
    the term -sg(log pi) log pi has it in expectation (its value is not the entropy and is reported nowhere).
    """
    entropy_M = -scored.logprobs_M.detach() * scored.logprobs_M
    for at_N, logprobs_NK in scored.distributions.values():
        entropy_M = entropy_M.index_put((at_N,), -(logprobs_NK.exp() * logprobs_NK).sum(-1))
    return entropy_M
