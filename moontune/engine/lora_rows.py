"""Which adapter each row of a pass uses, laid out so that every layer needs one pair of batched products.

Rows of one adapter form a block; blocks are padded to one length c. For the K blocks of adapters that share a form
(rank and layers; see `AdapterStack`), x is gathered to [K, c, in], two batched products with the stacked A and B give
[K, c, out], and the result is added to the rows it belongs to. Base-only rows are in no block.
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
        torch.from_numpy(take).to(device),
        torch.from_numpy(back).to(device),
        None if everyone else torch.from_numpy(rows).to(device),
    )
