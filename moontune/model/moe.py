"""A mixture of experts (Moondream 3): each token through the few of many small MLPs that a router picks for it.

With the router's k largest logits l_1..l_k of a token x, and w = softmax(l_1..l_k):
y = sum_i w_i fc2_i(gelu(h) (g + 1)), where [h, g] = fc1_i(x). The GELU is the exact one, and experts have no bias.

Tokens are sorted by expert, so that an expert's weights are read once for all of its tokens, in training and in
decoding alike, and nothing waits for a count on the host. A token's result does not depend on which other tokens are
there, up to rounding; but a router's choice is a step, and where two experts tie to within rounding it may fall the
other way in another batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moontune.model.config import MoeConfig
from moontune.model.layers import normal_parameter


class ExpertLinear(nn.Module):
    """One linear layer per expert, no bias: weight [experts, out_dim, in_dim]."""

    def __init__(self, experts: int, in_dim: int, out_dim: int) -> None:
        """Drawn from N(0, 1 / in_dim)."""
        super().__init__()
        self.experts, self.in_dim, self.out_dim = experts, in_dim, out_dim
        self.weight = normal_parameter(experts, out_dim, in_dim, std=in_dim**-0.5)

    def forward(self, x_MI: Tensor, ends_X: Tensor, rows_M: Tensor) -> Tensor:
        """[M, in_dim] sorted by expert to [M, out_dim]; expert i has the rows before ends_X[i] (int32, ascending).

        rows_M: the row of the batch that each comes from, for adapters that differ from row to row; unused here.
        """
        del rows_M
        return grouped_linear(x_MI, self.weight, ends_X)


class MoeMlp(nn.Module):
    """Router and experts."""

    def __init__(self, dim: int, config: MoeConfig) -> None:
        """`dim` is the width of the tokens."""
        super().__init__()
        self.config = config
        self.router = nn.Linear(dim, config.experts)
        self.fc1 = ExpertLinear(config.experts, dim, 2 * config.inner_dim)
        self.fc2 = ExpertLinear(config.experts, config.inner_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to the same shape; the first axis is the batch's rows."""
        x_MD, each = x.flatten(0, -2), self.config.experts_per_token
        shares_Mk, experts_Mk = self.route(x_MD)
        sorted_experts, order = experts_Mk.flatten().sort(stable=True)
        bounds_X = torch.arange(self.config.experts, device=x.device)
        ends_X = torch.searchsorted(sorted_experts, bounds_X, right=True).to(torch.int32)
        tokens_M = order // each
        rows_M = tokens_M // max(1, x_MD.shape[0] // max(1, x.shape[0]))
        h, g = self.fc1(x_MD[tokens_M], ends_X, rows_M).chunk(2, dim=-1)
        out = self.fc2(functional.gelu(h) * (g + 1), ends_X, rows_M)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        out_MkD = out[back].unflatten(0, (-1, each)) * shares_Mk.unsqueeze(-1)
        return out_MkD.sum(dim=1).view(x.shape)

    def route(self, x_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Shares (sum 1 per token, x's dtype) and experts, both [M, experts_per_token], the largest share first."""
        logits_Mk, experts_Mk = self.router(x_MD).topk(self.config.experts_per_token, dim=-1)
        return logits_Mk.softmax(dim=-1, dtype=torch.float32).to(x_MD.dtype), experts_Mk


def grouped_linear(x_MI: Tensor, weight_XOI: Tensor, ends_X: Tensor) -> Tensor:
    """Rows [M, I], sorted by group, each through its group's matrix [O, I]: [M, O]. ends_X: int32, where groups end."""
    return functional.grouped_mm(x_MI, weight_XOI.transpose(-2, -1), offs=ends_X)
