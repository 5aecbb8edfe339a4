"""KL(pi_theta || pi_ref) per decision, as a value and as a loss term. The reference is the base (adapter off).

With u = log pi_ref - log pi_theta at the decision taken:
  k1 = -u              unbiased value, zero gradient as a loss: only for reporting
  k2 = u^2 / 2         its gradient is the exact reverse-KL gradient (in expectation, on policy)
  k3 = e^u - 1 - u     unbiased value, >= 0; its own gradient is the *forward* KL's: never a loss as it stands
  k3_weighted          k3 * pi_theta / sg(pi_theta): value of k3, gradient of the reverse KL (of k2, sample by sample)
  exact                sum_c pi_theta(c) (log pi_theta(c) - log pi_ref(c)): no estimator; for the bin and go heads
Schulman 2020 (joschu.net/blog/kl-approx.html); DeepSeek-V3.2, arXiv 2512.02556 for the weighting.
"""

from torch import Tensor

from moontune.model.scoring import ScoredBatch
from services.trainer.losses.terms import MAX_LOG_RATIO


def k1(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """Log pi_theta - log pi_ref. For reporting only: differentiated, its expectation is zero."""
    return logprob_N - reference_N


def k2(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """(log pi_ref - log pi_theta)^2 / 2."""
    return 0.5 * (reference_N - logprob_N) ** 2


def k3(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """e^u - 1 - u with u = log pi_ref - log pi_theta. For reporting; see `k3_weighted` for a loss."""
    u_N = (reference_N - logprob_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return u_N.expm1() - u_N


def k3_weighted(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """k3 times pi_theta / sg(pi_theta), which is 1 in value."""
    return k3(logprob_N, reference_N) * (logprob_N - logprob_N.detach()).exp()


def exact(logprobs_NC: Tensor, reference_NC: Tensor) -> Tensor:
    """Sum over the whole support of each decision's head. Entries of -inf (outside a nucleus) add nothing."""
    difference_NC = (logprobs_NC - reference_NC).masked_fill(logprobs_NC.isneginf(), 0.0)
    return (logprobs_NC.exp() * difference_NC).sum(-1)


def to_reference(scored: ScoredBatch, reference: ScoredBatch) -> Tensor:
    """KL of each of the M decisions: exact over the bin and go heads, k3 (weighted) over tokens.

    Both were scored with distributions, over the same decisions.
    """
    kl_M = k3_weighted(scored.logprobs_M, reference.logprobs_M)
    for head, (at_N, logprobs_NK) in scored.distributions.items():
        kl_M = kl_M.index_put((at_N,), exact(logprobs_NK, reference.distributions[head][1]))
    return kl_M
