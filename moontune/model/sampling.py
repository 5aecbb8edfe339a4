"""From logits to a distribution, and from a distribution to a choice. Sampler and learner both go through here.

`log_distribution` is the whole definition: logits / temperature over the allowed choices, fp32. The sampler draws
from it by inverse transform with one uniform number per decision, so that a rollout depends on its own seed and
never on what else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.model.config import MoondreamConfig
from moontune.model.decisions import Phase, suppressed_ids

CLOSE = 1e-4
"""Greedy choices that lead by less may fall otherwise in another batch: fp32 sums round by the shape of the batch,
about 1e-6 of a logit."""

NEVER = -1.0e9
"""Logit of a choice that is not allowed: probability exactly 0, gradient finite (minus infinity would give NaN)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """choices, log_probs [N] (0.0 where greedy); nuclei: kept ids per row, sorted, None where all were kept."""

    choices_N: Tensor
    log_probs_N: Tensor
    nuclei: tuple[tuple[int, ...] | None, ...]


def log_distribution(logits_NK: Tensor, temperature_N: Tensor, allowed_NK: Tensor | None = None) -> Tensor:
    """Log-probabilities [N, K] at temperatures above 0, over the allowed choices only."""
    scaled_NK = logits_NK.float() / temperature_N.unsqueeze(-1)
    if allowed_NK is not None:
        scaled_NK = scaled_NK.masked_fill(~allowed_NK, NEVER)
    return scaled_NK.log_softmax(dim=-1)


def entropy(log_probs_NK: Tensor) -> Tensor:
    """In nats [N], of log-probabilities from `log_distribution`."""
    return -(log_probs_NK.exp() * log_probs_NK).sum(dim=-1)


def allowed_tokens(
    phases: Sequence[Phase],
    config: MoondreamConfig,
    device: torch.device,
    nuclei: Sequence[tuple[int, ...] | None] = (),
) -> Tensor:
    """Bool [N, V]: what each token decision may take, within its recorded nucleus where there is one."""
    allowed_NV = torch.ones(len(phases), config.text.vocab_size, dtype=torch.bool, device=device)
    phase_N = torch.tensor([int(phase) for phase in phases], device=device)
    for phase in Phase:
        for index in suppressed_ids(phase, config):
            allowed_NV[:, index] &= phase_N != int(phase)
    for row, nucleus in enumerate(nuclei):
        if nucleus is not None:
            kept_V = torch.zeros_like(allowed_NV[row])
            kept_V[list(nucleus)] = True
            allowed_NV[row] &= kept_V
    return allowed_NV


def nucleus_of(log_probs_NK: Tensor, top_p_N: Tensor) -> Tensor:
    """Bool [N, K]: the most likely choices, as long as the mass before each is at most top_p (so at least one)."""
    ordered_NK, order_NK = log_probs_NK.exp().sort(dim=-1, descending=True)
    before_NK = ordered_NK.cumsum(dim=-1) - ordered_NK
    keep_NK = (before_NK <= top_p_N.unsqueeze(-1)) & (ordered_NK > 0)
    return torch.zeros_like(keep_NK).scatter(-1, order_NK, keep_NK)


def draw(log_probs_NK: Tensor, uniform_N: Tensor) -> Tensor:
    """Choices [N] by inverse transform of uniform numbers in [0, 1); never one of probability 0."""
    cumulative_NK = log_probs_NK.exp().cumsum(dim=-1, dtype=torch.float64)
    total_N1 = cumulative_NK[:, -1:]
    # Below the total, so that the first sum beyond it is there, and is a choice that adds to it.
    most_N1 = torch.nextafter(total_N1, torch.zeros_like(total_N1))
    wanted_N1 = torch.minimum(uniform_N.double().unsqueeze(-1) * total_N1, most_N1)
    return torch.searchsorted(cumulative_NK, wanted_N1, right=True).squeeze(-1)


def close_calls(logits_NK: Tensor, temperature_N: Tensor, allowed_NK: Tensor | None = None) -> Tensor:
    """Bool [N]: greedy rows whose likeliest choice leads the next one by less than CLOSE."""
    logits_NK = logits_NK.float() if allowed_NK is None else logits_NK.float().masked_fill(~allowed_NK, NEVER)
    first_two_N2 = logits_NK.topk(2, dim=-1).values
    return (temperature_N == 0) & (first_two_N2[:, 0] - first_two_N2[:, 1] < CLOSE)


def sample(
    logits_NK: Tensor,
    temperature_N: Tensor,
    uniform_N: Tensor,
    allowed_NK: Tensor | None = None,
    top_p_N: Tensor | None = None,
    *,
    greedy: bool = True,
) -> Sampled:
    """Choose one of K per row: the likeliest where temperature is 0, else drawn from `log_distribution`.

    top_p_N truncates (text tokens only; None keeps everything); rows with 1 are not truncated. greedy: whether any
    temperature may be 0.
    """
    greedy_N = temperature_N == 0
    heat_N = temperature_N.masked_fill(greedy_N, 1.0)
    log_probs_NK = log_distribution(logits_NK, heat_N, allowed_NK)
    nuclei: list[tuple[int, ...] | None] = [None] * len(logits_NK)
    if top_p_N is not None and bool((cut_N := (top_p_N < 1) & ~greedy_N).any()):
        keep_NK = nucleus_of(log_probs_NK, top_p_N) | ~cut_N.unsqueeze(-1)
        keep_NK = keep_NK if allowed_NK is None else keep_NK & allowed_NK
        log_probs_NK = log_distribution(logits_NK, heat_N, keep_NK)
        for row, kept_K in enumerate(keep_NK):
            if bool(cut_N[row]):
                nuclei[row] = tuple(int(index) for index in kept_K.nonzero().flatten())
    choices_N = draw(log_probs_NK, uniform_N)
    if greedy:
        choices_N = torch.where(greedy_N, log_probs_NK.argmax(dim=-1), choices_N)
    chosen_N = log_probs_NK.gather(-1, choices_N.unsqueeze(-1)).squeeze(-1)
    return Sampled(choices_N, chosen_N.masked_fill(greedy_N, 0.0), tuple(nuclei))
