"""Experts against the plainest way to compute them, in value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moontune.model.config import MoeConfig, TextConfig
from moontune.model.moe import MoeMlp
from moontune.model.text import Tau, Text

CONFIG = MoeConfig(experts=6, experts_per_token=2, inner_dim=16, start_layer=0)


def plainly(moe: MoeMlp, token_D: Tensor) -> Tensor:
    """One token through its experts, one after the other."""
    logits_X = moe.router(token_D)
    chosen = logits_X.topk(moe.config.experts_per_token)
    out_D = torch.zeros_like(token_D)
    for share, expert in zip(chosen.values.softmax(-1), chosen.indices.tolist(), strict=True):
        h, g = (moe.fc1.weight[expert] @ token_D).chunk(2)
        out_D = out_D + share * (moe.fc2.weight[expert] @ (functional.gelu(h) * (g + 1)))
    return out_D


@pytest.fixture
def moe() -> MoeMlp:
    torch.manual_seed(0)
    return MoeMlp(32, CONFIG)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 7)])
def test_every_token_meets_its_own_experts(moe: MoeMlp, shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, 32)
    wanted = torch.stack([plainly(moe, token) for token in x.flatten(0, 1)]).view(x.shape)
    torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_plain_way(moe: MoeMlp) -> None:
    x = torch.randn(3, 9, 32, requires_grad=True)
    weights = torch.randn(3, 9, 32)
    names = [name for name, _ in moe.named_parameters()]
    ours = torch.autograd.grad((moe(x) * weights).sum(), [x, *moe.parameters()])
    plain = torch.stack([plainly(moe, token) for token in x.flatten(0, 1)]).view(x.shape)
    theirs = torch.autograd.grad((plain * weights).sum(), [x, *moe.parameters()])
    assert names == ["router.weight", "router.bias", "fc1.weight", "fc2.weight"]
    for name, mine, other in zip(["x", *names], ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_a_token_does_not_feel_the_others(moe: MoeMlp) -> None:
    x = torch.randn(1, 30, 32)
    torch.testing.assert_close(moe(x[:, 4:5]), moe(x)[:, 4:5], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(moe(x.flip(1)).flip(1), moe(x), atol=1e-6, rtol=1e-6)


def test_experts_without_tokens_cost_nothing_and_get_no_gradient(moe: MoeMlp) -> None:
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.bias.copy_(torch.tensor([0.0, 5.0, 0.0, 4.0, 0.0, 0.0]))
    shares, experts = moe.route(torch.randn(4, 32))
    assert experts.tolist() == [[1, 3]] * 4
    torch.testing.assert_close(shares[0], torch.tensor([5.0, 4.0]).softmax(0))
    moe(torch.randn(1, 4, 32)).square().sum().backward()
    gradient = moe.fc1.weight.grad
    assert gradient is not None
    assert gradient[[0, 2, 4, 5]].abs().max() == 0
    assert gradient[[1, 3]].abs().amax(dim=(1, 2)).min() > 0


def test_tau_scales_by_position_as_its_equation_says() -> None:
    """With silent token parts, tau = 1/2 + sigmoid(alpha ln(position + 1))."""
    tau = Tau(2, 12)
    with torch.no_grad():
        tau.wq.zero_(), tau.wv.fill_(1e3)
        tau.alpha.copy_(torch.tensor([0.0, 1.0]))
    tau_q, tau_v = tau(torch.ones(1, 3, 12), torch.tensor([[0, 1, 8]]))
    assert tau_q.shape == (1, 2, 3, 1)
    # sigmoid(ln n) = n / (n + 1): positions 0, 1, 8 give 1/2, 2/3, 9/10, and a half more.
    torch.testing.assert_close(tau_q[0, :, :, 0], torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.5 + 2 / 3, 1.4]]))
    torch.testing.assert_close(tau_v, tau_q + 1.0)


def test_layers_before_the_start_are_dense() -> None:
    text = TextConfig(
        dim=32, ff_dim=64, layers=3, heads=2, kv_heads=2, vocab_size=8, max_context=64, rotary_dim=8,
        moe=MoeConfig(4, 2, 8, start_layer=2),
    )  # fmt: skip
    assert [type(block.mlp).__name__ for block in Text(text).blocks] == ["Mlp", "Mlp", "MoeMlp"]
