"""LoRA on the layers that peft has none for: stacked experts, and the shortcut past the attention.

peft puts these in place of the base's layer once they are registered with its config (`CUSTOM_MODULES`). Tensors are
laid out as peft lays them out for a stacked parameter: A [E r, in] in rows (expert, rank), B [out, r E] in columns
(rank, expert).
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from moontune.model.layers import Shortcut
from moontune.model.moe import ExpertLinear


class _Lora(nn.Module, LoraLayer):
    """What both have in common: how peft makes one, and the two matrices of each adapter that acts."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, r: int = 0, **settings: Any):
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, config=config, **settings)

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        if isinstance(module, ExpertLinear):
            return module.in_dim, module.out_dim
        assert isinstance(module, Shortcut)
        return module.in_features, module.out_features

    def acting(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """A, B and scale of each adapter that acts."""
        if self.disable_adapters:
            return
        for name in self.active_adapters:
            if name in self.lora_A:
                a, b = (cast("nn.Linear", part[name]).weight for part in (self.lora_A, self.lora_B))
                yield a, b, cast("float", self.scaling[name])


class LoraShortcut(_Lora):
    """scale B A h beside the attention."""

    def forward(self, h_BTD: Tensor) -> Tensor | None:
        """What to add to the block's output [B, T, D]; None where no adapter acts."""
        out: Tensor | None = None
        for a_RD, b_DR, scale in self.acting():
            delta_BTD = (h_BTD.to(a_RD.dtype) @ a_RD.T @ b_DR.T * scale).to(h_BTD.dtype)
            out = delta_BTD if out is None else out + delta_BTD
        return out


class LoraExperts(_Lora):
    """scale B_e A_e x for the expert e of each row."""

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **settings: Any) -> None:
        """Make an adapter's matrices; `r` is the rank of one expert."""
        experts = cast("ExpertLinear", self.get_base_layer()).experts
        super().update_layer(adapter_name, r * experts, lora_alpha=cast("int", lora_alpha), config=config, **settings)
        self.r[adapter_name], self.scaling[adapter_name] = r, lora_alpha / r

    def forward(self, x_MI: Tensor, ends_X: Tensor, rows_M: Tensor) -> Tensor:
        """[M, in] sorted by expert to [M, out], as `ExpertLinear`."""
        out_MO = cast("Tensor", self.base_layer(x_MI, ends_X, rows_M))
        for a, b, scale in self.acting():
            delta_MO = expert_delta(x_MI.to(a.dtype), a, b, ends_X) * scale
            out_MO = out_MO + delta_MO.to(out_MO.dtype)
        return out_MO


def expert_delta(x_MI: Tensor, a: Tensor, b: Tensor, ends_X: Tensor) -> Tensor:
    """B_e A_e x of each row's expert e: [M, out]. a: [E r, in]; b: [out, r E]; expert i's rows end before ends_X[i].

    All experts' small A are one matrix; each row keeps its own expert's part of the product. That costs two matrix
    products of inner width E r, whatever the routing.
    """
    rows, experts = x_MI.shape[0], ends_X.shape[0]
    expert_M = torch.searchsorted(ends_X, torch.arange(rows, device=x_MI.device, dtype=ends_X.dtype), right=True)
    mine_ME = nn.functional.one_hot(expert_M, experts).to(x_MI.dtype)
    inner_MER = (x_MI @ a.T).view(rows, experts, -1) * mine_ME.unsqueeze(-1)
    return inner_MER.transpose(1, 2).flatten(1) @ b.T


CUSTOM_MODULES: Mapping[type[nn.Module], type[nn.Module]] = {ExpertLinear: LoraExperts, Shortcut: LoraShortcut}
"""What peft puts in place of which layer of ours."""
