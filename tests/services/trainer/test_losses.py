"""Every loss by hand, beside an independent numpy version, and all of them against each other on policy."""

import math

import numpy as np
import pytest
import torch

from moontune.values.skill import Skill
from moontune.values.training import Aggregation, LossKind
from services.trainer.advantages import group_advantages
from services.trainer.aggregation import GroupShape, decision_weights
from services.trainer.losses import LOSSES, SUPERVISED, LossParameters, PolicyTerms

COUNTS = (2, 3)
ROLLOUT = [0, 0, 1, 1, 1]


def terms_of(logprobs: torch.Tensor, anchors: list[float], advantages: list[float]) -> PolicyTerms:
    return PolicyTerms(
        logprobs,
        torch.tensor(anchors, dtype=torch.float64),
        torch.tensor([advantages[index] for index in ROLLOUT], dtype=torch.float64),
        torch.tensor(ROLLOUT),
        2,
    )


def value_of(kind: LossKind, terms: PolicyTerms, parameters: LossParameters) -> torch.Tensor:
    loss, aggregation = LOSSES[kind]
    weights = decision_weights([GroupShape(Skill.QUERY, COUNTS, 10)], aggregation)[0]
    weight_N = torch.tensor([weights[index] for index in ROLLOUT], dtype=torch.float64)
    return (weight_N * loss(terms, parameters).loss_N).sum()


def test_a_grpo_step_by_hand() -> None:
    # Rewards 1 and 0, so A = +0.5 for the first rollout (2 decisions), -0.5 for the second (3 decisions).
    # Ratios: 1.5 (clipped to 1.28 as A > 0), 1.0 | 0.5 (clipped to 0.8 as A < 0), 1.0, 2.0 (not clipped: A < 0).
    # Terms -min(r A, clip(r) A): -0.64, -0.5 | 0.4, 0.5, 1.0.
    # GRPO mean: 1/2 [ (-0.64 - 0.5) / 2 + (0.4 + 0.5 + 1.0) / 3 ] = 1/2 [ -0.57 + 0.633333 ] = 0.0316667.
    ratios = [1.5, 1.0, 0.5, 1.0, 2.0]
    anchors = [math.log(p) for p in (0.2, 0.3, 0.4, 0.1, 0.25)]
    logprob_N = torch.tensor(
        [anchor + math.log(ratio) for anchor, ratio in zip(anchors, ratios, strict=True)],
        dtype=torch.float64,
        requires_grad=True,
    )
    advantages = group_advantages([1.0, 0.0], LossKind.GRPO, normalise_std=False)
    terms = terms_of(logprob_N, anchors, [value for value in advantages if value is not None])
    found = LOSSES[LossKind.GRPO][0](terms, LossParameters(0.2, 0.28))
    assert found.loss_N.tolist() == pytest.approx([-0.64, -0.5, 0.4, 0.5, 1.0], abs=1e-12)
    assert found.clipped_N.tolist() == [True, False, True, False, False]
    value = value_of(LossKind.GRPO, terms, LossParameters(0.2, 0.28))
    assert value.item() == pytest.approx(0.5 * (-1.14 / 2 + 1.9 / 3), abs=1e-12)
    value.backward()
    # d/dlogp of -r A where it is not clipped: -(1.0)(0.5)/4 | 0, (1.0)(0.5)/6, (2.0)(0.5)/6
    assert logprob_N.grad is not None
    assert logprob_N.grad.tolist() == pytest.approx([0.0, -0.125, 0.0, 1 / 12, 1 / 6], abs=1e-12)


def test_on_policy_all_losses_share_one_gradient_up_to_aggregation() -> None:
    anchors = [math.log(p) for p in (0.2, 0.3, 0.4, 0.1, 0.25)]
    for kind, (loss, aggregation) in LOSSES.items():
        logprob_N = torch.tensor(anchors, dtype=torch.float64, requires_grad=True)
        loss(terms_of(logprob_N, anchors, [0.7, -0.3]), LossParameters()).loss_N.sum().backward()
        gradient = logprob_N.grad
        assert gradient is not None
        assert gradient.tolist() == pytest.approx([-0.7, -0.7, 0.3, 0.3, 0.3], abs=1e-12), (kind, aggregation)


def numpy_value(
    kind: LossKind,
    logp: np.ndarray,
    anchor: np.ndarray,
    adv: list[float],
    low: float,
    high: float,
    dual: float | None = None,
) -> float:
    """A second writing of every loss, with loops over rollouts and its own aggregation."""
    parts = [(logp[:2], anchor[:2], adv[0]), (logp[2:], anchor[2:], adv[1])]
    per_rollout: list[np.ndarray] = []
    for now, old, advantage in parts:
        ratio = np.exp(now - old)
        if kind is LossKind.GSPO:
            ratio = np.full_like(ratio, np.exp(np.mean(now - old)))
        if kind is LossKind.CISPO:
            per_rollout.append(-np.minimum(ratio, 1 + high) * advantage * now)
        elif kind in (LossKind.REINFORCE, LossKind.RLOO):
            per_rollout.append(-advantage * now)
        else:
            gain = np.minimum(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)
            if dual is not None and advantage < 0:
                gain = np.maximum(gain, dual * advantage)
            per_rollout.append(-gain)
    match LOSSES[kind][1]:
        case Aggregation.TOKEN_MEAN:
            return float(np.concatenate(per_rollout).mean())
        case Aggregation.SEQUENCE_MEAN:
            return float(np.mean([part.mean() for part in per_rollout]))
        case Aggregation.CONSTANT:
            return float(sum(part.sum() for part in per_rollout) / (2 * 10))
        case Aggregation.SEQUENCE_SUM:
            return float(np.mean([part.sum() for part in per_rollout]))


@pytest.mark.parametrize("kind", list(LossKind))
def test_off_policy_values_match_a_second_writing(kind: LossKind) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        anchor = -generator.exponential(1.0, 5)
        logp = np.minimum(anchor + generator.normal(0.0, 0.5, 5), 0.0)
        advantages = generator.normal(0.0, 1.0, 2).tolist()
        terms = terms_of(torch.tensor(logp), anchor.tolist(), advantages)
        found = value_of(kind, terms, LossParameters(0.2, 0.28)).item()
        assert found == pytest.approx(numpy_value(kind, logp, anchor, advantages, 0.2, 0.28), abs=1e-12)


def test_dual_clip_matches_a_second_writing() -> None:
    generator = np.random.default_rng(4)
    acted = 0
    for _ in range(50):
        anchor = -generator.exponential(2.0, 5)
        logp = np.minimum(anchor + generator.normal(0.0, 1.5, 5), 0.0)
        advantages = generator.normal(0.0, 1.0, 2).tolist()
        terms = terms_of(torch.tensor(logp), anchor.tolist(), advantages)
        found = value_of(LossKind.PPO, terms, LossParameters(0.2, 0.28, dual_clip=3.0)).item()
        wanted = numpy_value(LossKind.PPO, logp, anchor, advantages, 0.2, 0.28, dual=3.0)
        assert found == pytest.approx(wanted, abs=1e-12)
        acted += wanted != numpy_value(LossKind.PPO, logp, anchor, advantages, 0.2, 0.28)
    assert acted > 5


def test_cross_entropy_is_the_mean_of_the_negative_log_probabilities() -> None:
    logprobs = [-1.0, -0.5, -2.0, -0.3, -1.2]
    logprob_N = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    loss, aggregation = SUPERVISED
    assert aggregation is Aggregation.TOKEN_MEAN
    # Anchors and clips of any kind have no effect.
    value = loss(terms_of(logprob_N, [-9.0] * 5, [1.0, 1.0]), LossParameters(0.0, 0.0)).loss_N.mean()
    value.backward()
    assert value.item() == pytest.approx(1.0, abs=1e-12)
    assert logprob_N.grad is not None
    assert logprob_N.grad.tolist() == pytest.approx([-0.2] * 5, abs=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in LossKind if kind is not LossKind.CISPO])
def test_gradients_match_finite_differences(kind: LossKind) -> None:
    # CISPO's weight is a stop-gradient, so its gradient is not the derivative of its value.
    anchors = [-1.0, -0.5, -2.0, -0.3, -1.2]
    logprob_N = torch.tensor([-1.1, -0.45, -1.9, -0.35, -1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda logprobs: value_of(kind, terms_of(logprobs, anchors, [0.7, -0.3]), LossParameters()), (logprob_N,)
    )


def test_cispo_keeps_the_gradient_that_the_clip_takes_away() -> None:
    anchors = [-3.0, -0.5, -2.0, -0.3, -1.2]
    for kind, expected in ((LossKind.DAPO, 0.0), (LossKind.CISPO, -1.28 * 0.7)):
        logprob_N = torch.tensor([-1.0, -0.5, -2.0, -0.3, -1.2], dtype=torch.float64, requires_grad=True)
        found = LOSSES[kind][0](terms_of(logprob_N, anchors, [0.7, -0.3]), LossParameters())
        found.loss_N[0].backward()
        assert logprob_N.grad is not None
        assert logprob_N.grad[0].item() == pytest.approx(expected, abs=1e-12)
        assert found.clipped_N.tolist() == [True, False, False, False, False]


def test_dual_clip_bounds_what_an_unlikely_bad_decision_costs() -> None:
    anchors = [-1.0, -0.5, -4.0, -0.3, -1.2]
    logprob_N = torch.tensor([-1.0, -0.5, -0.1, -0.3, -1.2], dtype=torch.float64)
    free = LOSSES[LossKind.PPO][0](terms_of(logprob_N, anchors, [0.7, -0.3]), LossParameters())
    bound = LOSSES[LossKind.PPO][0](terms_of(logprob_N, anchors, [0.7, -0.3]), LossParameters(dual_clip=3.0))
    assert free.loss_N[2].item() == pytest.approx(0.3 * math.exp(3.9), abs=1e-9)
    assert bound.loss_N[2].item() == pytest.approx(0.9, abs=1e-12)
    assert bound.clipped_N.tolist() == [False, False, True, False, False]


def test_a_huge_log_ratio_stays_finite() -> None:
    logprob_N = torch.tensor([0.0] * 5, dtype=torch.float32, requires_grad=True)
    terms = PolicyTerms(logprob_N, torch.full((5,), -1e4), torch.full((5,), -1.0), torch.tensor(ROLLOUT), 2)
    for loss, _ in LOSSES.values():
        assert torch.isfinite(loss(terms, LossParameters()).loss_N).all()
