"""Gradient checkpointing: a block's activations are dropped after the forward and computed again for the backward.

Memory of a pass falls from all activations of every block to one block's and each block's input; the forward is done
twice. Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]


class Recompute:
    """A switch over the blocks of a module tree of one's own.

    beyond: passes of more positions than this are recomputed; 0 is every pass.
    """

    def __init__(self, blocks: Iterable[nn.Module], beyond: int) -> None:
        self._beyond = beyond
        self._on = False
        for block in blocks:
            block.forward = self._switched(block.forward)

    def choose(self, positions: int) -> None:
        """Decide for the pass that follows."""
        self._on = positions > self._beyond

    def _switched(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: object) -> Tensor:
            if not (self._on and torch.is_grad_enabled()):
                return forward(*args)
            # No random numbers are drawn in a forward, so none need to be drawn again.
            return cast("Tensor", checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False))

        return run
