"""The random numbers of a batch: each rollout has a generator of its own, so that neighbours change nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

STEPS_PER_DRAW = 64
"""A generator is asked for this many steps at a time: one call per rollout and 64 steps instead of one per step."""

DRAWS_PER_STEP = 2
"""A decode step takes at most two decisions per row: go-on and x, or width and height."""


class Noise:
    """Uniform numbers in [0, 1), by row and decode step; drawn on the CPU, so that every device sees the same."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        """One generator per seed."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device
        self._first_step = 0
        self._block = self._draw()

    def at(self, step: int) -> Tensor:
        """Uniforms [B, 2] of this step; steps are asked for in order, from 0."""
        if step >= self._first_step + STEPS_PER_DRAW:
            self._first_step += STEPS_PER_DRAW
            self._block = self._draw()
        return self._block[:, step - self._first_step]

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        self._generators = [self._generators[row] for row in rows]
        self._block = self._block[torch.as_tensor(rows, device=self._device)]

    def _draw(self) -> Tensor:
        shape = (STEPS_PER_DRAW, DRAWS_PER_STEP)
        return torch.stack([torch.rand(shape, generator=generator) for generator in self._generators]).to(self._device)
