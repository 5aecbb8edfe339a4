"""The definition of a decision's probability, by hand; everything else only checks that two paths share it."""

import math

import pytest
import torch

from moontune.model.base_model import BaseModel
from moontune.model.decisions import Phase
from moontune.model.inputs import segment_mask
from moontune.model.sampling import allowed_tokens, close_calls, draw, entropy, log_distribution, nucleus_of, sample

LOGITS = torch.tensor([[0.0, math.log(2.0), math.log(5.0)]])
"""Probabilities 1/8, 2/8, 5/8."""


def heat(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_temperature_divides_the_logits() -> None:
    assert log_distribution(LOGITS, heat(1.0)).exp()[0].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert log_distribution(LOGITS, heat(0.5)).exp()[0].tolist() == pytest.approx([1 / 30, 4 / 30, 25 / 30])


def test_what_is_not_allowed_has_no_probability_and_finite_gradients() -> None:
    logits = LOGITS.clone().requires_grad_()
    allowed = torch.tensor([[True, True, False]])
    log_probs = log_distribution(logits, heat(1.0), allowed)
    assert log_probs.exp()[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert log_probs.exp()[0, 2] == 0.0
    (log_probs[0, 0] + entropy(log_probs)[0]).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 2] == 0.0


def test_entropy_in_nats() -> None:
    assert entropy(torch.full((1, 4), 0.25).log()).item() == pytest.approx(math.log(4))
    assert entropy(log_distribution(LOGITS, heat(1.0), torch.tensor([[False, False, True]]))).item() == 0.0


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, [2]), (0.62, [2]), (0.63, [1, 2]), (0.87, [1, 2]), (0.88, [0, 1, 2])]
)
def test_the_nucleus_keeps_what_has_at_most_top_p_before_it(top_p: float, kept: list[int]) -> None:
    keep = nucleus_of(log_distribution(LOGITS, heat(1.0)), heat(top_p))
    assert keep[0].nonzero().flatten().tolist() == kept


@pytest.mark.parametrize(
    ("uniform", "choice"), [(0.0, 0), (0.1249, 0), (0.126, 1), (0.374, 1), (0.376, 2), (0.9999999, 2)]
)
def test_draws_by_inverse_transform(uniform: float, choice: int) -> None:
    assert draw(log_distribution(LOGITS, heat(1.0)), torch.tensor([uniform], dtype=torch.float64)).item() == choice


def test_nothing_of_probability_zero_is_drawn() -> None:
    log_probs = log_distribution(torch.zeros(1, 4), heat(1.0), torch.tensor([[False, True, True, False]]))
    edges = (0.0, 0.5, 1 - 2**-53)
    drawn = [draw(log_probs, torch.tensor([edge], dtype=torch.float64)).item() for edge in edges]
    assert drawn == [1, 2, 2]


def test_rows_are_greedy_cut_or_free_each_for_itself() -> None:
    got = sample(
        LOGITS.expand(3, -1),
        torch.tensor([0.0, 1.0, 1.0]),
        torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64),
        top_p_N=torch.tensor([0.5, 0.63, 1.0]),
    )
    assert got.choices_N.tolist() == [2, 1, 0]
    assert got.log_probs_N.tolist() == pytest.approx([0.0, math.log(2 / 7), math.log(1 / 8)])
    assert got.nuclei == (None, (1, 2), None)


def test_frequencies_match_the_distribution() -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw(log_distribution(LOGITS, heat(1.0)).expand(20_000, -1), uniform)
    share = torch.bincount(drawn, minlength=3) / 20_000
    assert share.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.01)


def test_suppressions(base: BaseModel) -> None:
    allowed = allowed_tokens(
        [Phase.ANSWER, Phase.THINKING, Phase.ANSWER], base.config, base.module.device, [None, None, (3, 50)]
    )
    special = base.config.tokenizer
    assert (~allowed[0]).nonzero().flatten().tolist() == [special.answer_id]
    assert (~allowed[1]).nonzero().flatten().tolist() == [special.eos_id, special.size_id]
    assert allowed[2].nonzero().flatten().tolist() == [50]


def test_who_sees_whom() -> None:
    """Two prefix positions, two of the prompt, completions of two and one, one of padding."""
    mask = segment_mask(torch.tensor([[0, 0, 1, 1, 2, 2, 3, -1]]))[0]
    assert ["".join("x" if seen else "." for seen in row) for row in mask.tolist()] == [
        "xx......",
        "xx......",
        "xxx.....",
        "xxxx....",
        "xxxxx...",
        "xxxxxx..",
        "xxxx..x.",
        ".......x",
    ]


@torch.no_grad()
def test_region_features_by_hand(base: BaseModel) -> None:
    """Cosines, then sines, of 2 pi v W."""
    region = base.module.region
    turns = [2 * math.pi * 0.3 * frequency for frequency in region.coord_features[0].tolist()]
    features = torch.tensor([math.cos(turn) for turn in turns] + [math.sin(turn) for turn in turns])
    torch.testing.assert_close(
        region.embed_coords(torch.tensor(0.3)), region.coord_encoder(features), atol=1e-5, rtol=1e-5
    )
    width, height = region.size_features.tolist()
    turns = [2 * math.pi * (0.1 * w + 0.2 * h) for w, h in zip(width, height, strict=True)]
    features = torch.tensor([math.cos(turn) for turn in turns] + [math.sin(turn) for turn in turns])
    torch.testing.assert_close(
        region.embed_sizes(torch.tensor([0.1, 0.2])), region.size_encoder(features), atol=1e-5, rtol=1e-5
    )


def test_close_calls_are_greedy_rows_whose_best_two_are_near() -> None:
    logits = torch.tensor([[1.0, 1.00005, 0.0], [1.0, 1.00005, 0.0], [1.0, 1.5, 0.0], [1.0, 1.00005, 0.0]])
    temperature = torch.tensor([0.0, 0.7, 0.0, 0.0])
    allowed = torch.tensor([[True, True, True]] * 3 + [[False, True, True]])
    assert close_calls(logits, temperature, allowed).tolist() == [True, False, False, False]
    assert close_calls(logits, temperature).tolist() == [True, False, False, True]
