"""Keys and values of the rollouts that run: one row each, always the first rows of one block of memory per layer.

A row holds its prompt's keys and values, copied from its prefix when it starts, and its own behind them. Rows have
their own lengths, so prompts of any length decode together, and rows come and go at any step: the last row moves into
a gap. What the block may cost is the scheduler's to decide; the pool is as large as it is told to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.engine.rows import Moves
from moontune.model.config import TextConfig
from moontune.model.inputs import Prefilled
from moontune.model.kv_cache import KvCache


@dataclass(frozen=True, slots=True, eq=False)
class PrefixKv:
    """A prompt that has been run. kv: [layers, 2 (keys, values), length, kv_heads, head_dim]. hidden_D: of its end."""

    kv: Tensor
    hidden_D: Tensor

    @property
    def length(self) -> int:
        """Positions."""
        return self.kv.shape[2]

    @property
    def size_bytes(self) -> int:
        """Of keys and values."""
        return self.kv.numel() * self.kv.element_size()


class KvPool(KvCache):
    """Per layer [2, rows, positions, kv_heads, head_dim]; stands in for a `KvCache` in passes of one new position."""

    def __init__(self, config: TextConfig, dtype: torch.dtype, device: torch.device, ahead_bytes: int) -> None:
        """Empty; `ahead_bytes` bounds how far it grows ahead of what is asked for."""
        self._config, self._dtype, self._device, self._ahead_bytes = config, dtype, device, ahead_bytes
        self._layers = [self._block(0, 0) for _ in range(config.layers)]
        self._slots = self._positions = 0
        self._rows_B = torch.arange(0, device=device)
        self._at_B = self._rows_B
        self._count = self._reach = 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._slots * self._positions * position_bytes(self._config, self._dtype)

    def ensure(self, rows: int, positions: int, used: int) -> None:
        """Have room for so many rows of so many positions; the first `used` rows keep what they hold.

        Rows grow by doubling at first, and by no more than what is asked for near the budget.
        """
        if rows <= self._slots and positions <= self._positions:
            return
        if rows * self._row_bytes(self._positions) <= self._ahead_bytes:
            positions = max(positions, self._positions)
        most = self._ahead_bytes // self._row_bytes(positions)
        self._resize(max(rows, min(most, max(2 * rows, self._slots))), positions, used)

    def fit(self, used: int, positions: int) -> None:
        """Give back what more than the first `used` rows of so many positions take."""
        if used < self._slots or positions < self._positions:
            self._resize(used, positions, used)

    def begin_rows(self, prefix: PrefixKv, first: int, count: int) -> None:
        """Rows `first` to `first + count - 1` begin behind the prefix."""
        for layer, block in enumerate(self._layers):
            block[:, first : first + count, : prefix.length] = prefix.kv[layer].unsqueeze(1)

    def leave(self, moves: Moves, reach: int) -> None:
        """Close up as the rows did; no row is longer than `reach`."""
        if not len(moves.holes):
            return
        holes, sources = (
            torch.from_numpy(moves.holes).to(self._device),
            torch.from_numpy(moves.sources).to(self._device),
        )
        for block in self._layers:
            block[:, holes, :reach] = block[:, sources, :reach]

    def begin(self, positions_B: Tensor, reach: int) -> Tensor:
        """Before a pass: row b's new position goes to `positions_B[b]`; none is beyond `reach`.

        Returns the mask [B, 1, reach + 1], 0 where a row may attend and minus infinity elsewhere.
        """
        self._count, self._reach = len(positions_B), reach + 1
        self._at_B = positions_B + self._rows_B[: self._count] * self._positions
        index = torch.arange(self._reach, device=self._device)
        mask_BS = torch.zeros(self._count, self._reach, dtype=self._dtype, device=self._device)
        return mask_BS.masked_fill_(index > positions_B.unsqueeze(-1), float("-inf")).unsqueeze(1)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write each row's new key and value; past and new of all rows, [B, kv_heads, S, head_dim]."""
        block = self._layers[layer]
        for part, new in enumerate((k, v)):
            block[part].flatten(0, 1).index_copy_(0, self._at_B, new.squeeze(2))
        both = block[:, : self._count, : self._reach].transpose(2, 3)
        return both[0], both[1]

    def advance(self, count: int, valid_BT: Tensor | None = None) -> None:
        """Rows know their own lengths: nothing to do."""

    def _resize(self, slots: int, positions: int, used: int) -> None:
        kept = min(self._positions, positions)
        for layer, old in enumerate(self._layers):
            # One layer at a time, so that old and new are never both there as a whole.
            new = self._block(slots, positions)
            new[:, :used, :kept] = old[:, :used, :kept]
            self._layers[layer] = new
        self._slots, self._positions = slots, positions
        self._rows_B = torch.arange(slots, device=self._device)

    def _row_bytes(self, positions: int) -> int:
        return max(1, positions * position_bytes(self._config, self._dtype))

    def _block(self, slots: int, positions: int) -> Tensor:
        # Zeros, not whatever was there: a masked score is minus infinity, but 0 times a stray NaN value would be NaN.
        shape = (2, slots, positions, self._config.kv_heads, self._config.head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)


def position_bytes(config: TextConfig, dtype: torch.dtype) -> int:
    """Keys and values of one position in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize


def split_prefixes(ready: Prefilled, lengths: Sequence[int]) -> list[PrefixKv]:
    """The rows of a prefilled cache, each cut to its own length and in memory of its own."""
    layers = [torch.stack(ready.cache.layer(layer)) for layer in range(ready.cache.layers)]
    whole = torch.stack(layers).transpose(3, 4)  # [layers, 2, B, S, kv_heads, head_dim]
    return [
        PrefixKv(whole[:, :, row, :length].clone(memory_format=torch.contiguous_format), ready.hidden_BD[row].clone())
        for row, length in enumerate(lengths)
    ]
