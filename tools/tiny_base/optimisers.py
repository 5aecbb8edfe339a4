"""Muon for the matrices of the blocks, AdamW for the rest, and small steps for the smooth output rows."""

import torch
from torch import nn
from torch.nn import Parameter

from moontune.model.moondream import Moondream

MUON_LR = 0.015
ADAM_LR = 1e-3
SMOOTH_LR = 2e-4
"""Of the region head's last layers: with more, noise scrambles their thousand rows before they are of use."""
_WARM_UP_STEPS = 60


class Optimisers:
    """Both optimisers on one schedule: warm-up, constant to 40 %, then linear to 2 %."""

    def __init__(self, model: Moondream, dense: nn.Module) -> None:
        """Sort the parameters by name."""
        matrices: list[Parameter] = []
        smooth: list[Parameter] = []
        rest: list[Parameter] = list(dense.parameters())
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.startswith(("region.coord_decoder.fc2", "region.size_decoder.fc2")):
                smooth.append(parameter)
            elif parameter.ndim == 2 and _is_matrix(name):
                matrices.append(parameter)
            else:
                rest.append(parameter)
        self.muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05)
        groups = [{"params": rest, "lr": ADAM_LR}, {"params": smooth, "lr": SMOOTH_LR}]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        self._full = [(group, group["lr"]) for each in (self.muon, self.adam) for group in each.param_groups]

    def step(self, step: int, progress: float) -> None:
        """Update with the present gradients."""
        for group, lr in self._full:
            group["lr"] = lr * schedule(step, progress)
        self.muon.step()
        self.adam.step()


def schedule(step: int, progress: float) -> float:
    """The share of the full learning rate."""
    cooled = 1.0 if progress < 0.4 else 1.0 - 0.98 * (progress - 0.4) / 0.6
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * cooled


def _is_matrix(name: str) -> bool:
    return ".blocks." in name or name.startswith(
        ("vision.patch_emb", "vision.proj_mlp", "region.coord_decoder.fc1", "region.size_decoder.fc1")
    )
