"""KL estimators against exact gradients on a categorical."""

import pytest
import torch
from torch import Tensor

from services.trainer import kl

CHOICES = 64


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(CHOICES, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)


@pytest.fixture
def reference() -> Tensor:
    return torch.randn(CHOICES, generator=torch.Generator().manual_seed(2), dtype=torch.float64).log_softmax(0)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, logits)
    return found


def reverse_kl(logits: Tensor, reference: Tensor) -> Tensor:
    logprobs = logits.log_softmax(0)
    return (logprobs.exp() * (logprobs - reference)).sum()


def expected_loss(estimator: str, logits: Tensor, reference: Tensor) -> Tensor:
    """E_{c ~ pi}[estimator], with the sampling probabilities held fixed, as a loss over samples has them."""
    logprobs = logits.log_softmax(0)
    return (logprobs.detach().exp() * getattr(kl, estimator)(logprobs, reference)).sum()


@pytest.mark.parametrize("estimator", ["k2", "k3_weighted"])
def test_estimators_meant_as_a_loss_have_the_reverse_gradient(
    estimator: str, logits: Tensor, reference: Tensor
) -> None:
    exact = gradient(reverse_kl(logits, reference), logits)
    found = gradient(expected_loss(estimator, logits, reference), logits)
    assert (found - exact).norm() / exact.norm() < 1e-12


def test_k2_and_weighted_k3_differ_in_value_alone() -> None:
    # d k3_weighted = (e^u - 1 - u) dlog - (e^u - 1) dlog = -u dlog = d k2, sample by sample: to choose between them as
    # a loss would choose nothing. The value of k3 is unbiased, so that is the one in use.
    logprob = torch.tensor([-2.0, -1.0, -0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.5, -1.5, -3.0], dtype=torch.float64)
    second, third = kl.k2(logprob, reference), kl.k3_weighted(logprob, reference)
    assert not torch.allclose(second, third)
    assert gradient(second.sum(), logprob).tolist() == pytest.approx([-1.5, 0.5, 2.9], abs=1e-12)
    assert gradient(third.sum(), logprob).tolist() == pytest.approx([-1.5, 0.5, 2.9], abs=1e-12)


def test_the_traps_are_what_the_docstring_says(logits: Tensor, reference: Tensor) -> None:
    assert gradient(expected_loss("k1", logits, reference), logits).norm() < 1e-12
    forward = (reference.exp() * (reference - logits.log_softmax(0))).sum()
    found, expected = gradient(expected_loss("k3", logits, reference), logits), gradient(forward, logits)
    assert (found - expected).norm() / expected.norm() < 1e-12


@pytest.mark.parametrize("estimator", ["k1", "k3", "k3_weighted"])
def test_values_are_unbiased(estimator: str, logits: Tensor, reference: Tensor) -> None:
    found = expected_loss(estimator, logits, reference).item()
    assert found == pytest.approx(reverse_kl(logits, reference).item(), abs=1e-12)


def test_exact_is_the_sum_and_its_gradient(logits: Tensor, reference: Tensor) -> None:
    found = kl.exact(logits.log_softmax(0)[None], reference[None])[0]
    expected = reverse_kl(logits, reference)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(gradient(found, logits), gradient(expected, logits), atol=1e-12)


def test_exact_ignores_what_the_nucleus_left_out() -> None:
    kept = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    other = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
    assert kl.exact(kept, other).item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-7)
