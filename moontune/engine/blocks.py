"""Rows of a pass that share something, an adapter or a prefix, laid out for batched products over what they share.

Rows that share form a block; blocks are padded to one length c. With K blocks, x is gathered to [K, c, ...], there is
one product per block, and the result goes back to the rows it belongs to.

For adapters, K is those that share a form (rank and layers; see `AdapterStack`): two batched products with the stacked
A and B give [K, c, out], which is added to the rows. Base-only rows are in no block.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_PADDING = 2
"""Blocks are split where padding would make more than this many times the rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The rows of a pass that use adapters of one stack.

    slots: of the K blocks in the stack; a slice where they are neighbours, so that nothing is copied.
    take: row of the pass for each of the K c places (None: they are all rows in order).
    back: place of each row that has an adapter of this stack (None: every place is one, in order).
    rows: those rows (None: all rows of the pass, in order).
    """

    count: int
    slots: slice | Tensor
    take: Tensor | None
    back: Tensor | None
    rows: Tensor | None

    def delta(self, x: Tensor, a_SIR: Tensor, b_SRO: Tensor) -> Tensor:
        """B A x of the rows of this stack: [rows, ..., out] in the stack's dtype, for x [pass, ..., in]."""
        taken = x if self.take is None else x.index_select(0, self.take)
        x_KMI = taken.reshape(self.count, -1, x.shape[-1]).to(a_SIR.dtype)
        out_KMO = torch.bmm(torch.bmm(x_KMI, self.of(a_SIR)), self.of(b_SRO))
        out = out_KMO.reshape(*taken.shape[:-1], out_KMO.shape[-1])
        return out if self.back is None else out.index_select(0, self.back)

    def gathered(self, x: Tensor) -> Tensor:
        """Rows [pass, ...] as blocks' [K, c, ...]."""
        taken = x if self.take is None else x.index_select(0, self.take)
        return taken.reshape(self.count, -1, *taken.shape[1:])

    def ungathered(self, x: Tensor) -> Tensor:
        """The reverse of `gathered`, for the rows of this stack."""
        rows = x.flatten(0, 1)
        return rows if self.back is None else rows.index_select(0, self.back)

    def together(self, x_BKRD: Tensor) -> Tensor:
        """Rows' [B, K, R, ...] as blocks' [blocks, K, c R, ...]: what rows of one block say, side by side."""
        taken = x_BKRD if self.take is None else x_BKRD.index_select(0, self.take)
        _, heads, each, width = taken.shape
        return taken.view(self.count, -1, heads, each, width).transpose(1, 2).reshape(self.count, heads, -1, width)

    def apart(self, x: Tensor, each: int) -> Tensor:
        """The reverse of `together`, for blocks' [blocks, K, c R, width] with R = `each`."""
        blocks, heads, _, width = x.shape
        rows = x.view(blocks, heads, -1, each, width).transpose(1, 2).reshape(-1, heads, each, width)
        return rows if self.back is None else rows.index_select(0, self.back)

    def of(self, stack_S: Tensor) -> Tensor:
        """The blocks' entries of a stack: [K, ...]."""
        return stack_S[self.slots] if isinstance(self.slots, slice) else stack_S.index_select(0, self.slots)


def blocks_of(rows: NDArray[np.int64], slots: NDArray[np.int64], size: int, device: torch.device) -> Blocks:
    """Lay out the rows of a pass of `size` rows that use the stack's `slots`, one each; `rows` ascends."""
    used, which, counts = np.unique(slots, return_inverse=True, return_counts=True)
    everyone = len(rows) == size
    if len(used) == 1:
        index = None if everyone else torch.from_numpy(rows).to(device)
        return Blocks(1, slice(int(used[0]), int(used[0]) + 1), index, None, index)
    order = np.argsort(which, kind="stable")
    length = int(counts.max())
    if len(used) * length > MOST_PADDING * len(rows):
        length = -(-len(rows) // len(used))
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # place among its adapter's rows
    parts = -(-counts // length)
    block = (np.cumsum(parts) - parts)[which[order]] + within // length
    place = block * length + within % length
    total = int(parts.sum())
    take = np.zeros(total * length, dtype=np.int64) + rows[0]
    take[place] = rows[order]
    back = np.empty(len(rows), dtype=np.int64)
    back[order] = place
    chosen = np.repeat(used, parts)
    neighbours = total == len(used) and int(used[-1] - used[0]) + 1 == total
    return Blocks(
        total,
        slice(int(used[0]), int(used[-1]) + 1) if neighbours else torch.from_numpy(chosen).to(device),
        _unless_in_order(take, size, device),
        _unless_in_order(back, total * length, device),
        None if everyone else torch.from_numpy(rows).to(device),
    )


def _unless_in_order(index: NDArray[np.int64], size: int, device: torch.device) -> Tensor | None:
    """None for 0, 1, ... `size` - 1, which need no gathering."""
    if len(index) == size and bool((index == np.arange(size)).all()):
        return None
    return torch.from_numpy(index).to(device)
