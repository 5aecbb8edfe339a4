"""Memory of keys and values: rows that are added at the end, and moved into the gaps of those that go."""

import torch
from torch import Tensor

from moontune.engine.rows import Indices, Moves
from moontune.model.config import TextConfig


class KvBlock:
    """Per layer [2 (keys, values), rows, kv_heads, positions, head_dim]; rows and positions grow when asked to."""

    def __init__(self, config: TextConfig, dtype: torch.dtype, device: torch.device, ahead_bytes: int) -> None:
        """Empty; `ahead_bytes` bounds how far it grows ahead of what is asked for."""
        self._config, self._dtype, self._device, self._ahead_bytes = config, dtype, device, ahead_bytes
        self._rows = self._positions = 0
        self._layers = [self._new(0, 0) for _ in range(config.layers)]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._rows * self._positions * position_bytes(self._config, self._dtype)

    def ensure(self, rows: int, positions: int, used: int) -> None:
        """Have room for so many rows of so many positions; the first `used` rows keep what they hold.

        Rows grow by doubling at first, and by no more than what is asked for near the budget.
        """
        if rows <= self._rows and positions <= self._positions:
            return
        if rows * self._row_bytes(self._positions) <= self._ahead_bytes:
            positions = max(positions, self._positions)
        most = self._ahead_bytes // self._row_bytes(positions)
        self._resize(max(rows, min(most, max(2 * rows, self._rows))), positions, used)

    def fit(self, used: int) -> None:
        """Give back what more than the first `used` rows take."""
        if used < self._rows:
            self._resize(used, self._positions if used else 0, used)

    def write(self, row: int, kv: Tensor) -> None:
        """Put [layers, 2, kv_heads, length, head_dim] at a row's begin."""
        for block, source in zip(self._layers, kv, strict=True):
            block[:, row, :, : kv.shape[3]] = source

    def leave(self, moves: Moves, reach: int) -> None:
        """Close up; no row is longer than `reach`."""
        if len(moves.holes):
            holes, sources = (torch.from_numpy(rows).to(self._device) for rows in (moves.holes, moves.sources))
            for block in self._layers:
                block[:, holes, :, :reach] = block[:, sources, :, :reach]

    def places(self, positions: Indices) -> Tensor:
        """Where position `positions[b]` of row b is, for every key head: for `append`."""
        rows = torch.arange(len(positions), device=self._device)[:, None]
        heads = torch.arange(self._config.kv_heads, device=self._device)
        first = (rows * self._config.kv_heads + heads) * self._positions
        return (first + torch.from_numpy(positions).to(self._device)[:, None]).flatten()

    def append(self, layer: int, places: Tensor, k: Tensor, v: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """Write one new key and value a row, [B, kv_heads, 1, head_dim]; all of those rows' up to `reach`."""
        block, count = self._layers[layer], k.shape[0]
        for part, new in enumerate((k, v)):
            block[part].flatten(0, 2).index_copy_(0, places, new.reshape(-1, new.shape[-1]))
        return block[0, :count, :, :reach], block[1, :count, :, :reach]

    def read(self, layer: int, reach: int) -> tuple[Tensor, Tensor]:
        """Keys and values of all rows, [rows, kv_heads, reach, head_dim]."""
        block = self._layers[layer]
        return block[0, :, :, :reach], block[1, :, :, :reach]

    def _resize(self, rows: int, positions: int, used: int) -> None:
        kept = min(self._positions, positions)
        for layer, old in enumerate(self._layers):
            # One layer at a time, so that old and new are never both there as a whole.
            new = self._new(rows, positions)
            new[:, :used, :, :kept] = old[:, :used, :, :kept]
            self._layers[layer] = new
        self._rows, self._positions = rows, positions

    def _row_bytes(self, positions: int) -> int:
        return max(1, positions * position_bytes(self._config, self._dtype))

    def _new(self, rows: int, positions: int) -> Tensor:
        # Zeros, not whatever was there: a share of 0 times a stray NaN would be NaN.
        shape = (2, rows, self._config.kv_heads, positions, self._config.head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)


def position_bytes(config: TextConfig, dtype: torch.dtype) -> int:
    """Keys and values of one position in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize
