"""Keys and values of the positions already run, for generation without gradients.

Rows of one cache always have the same number of slots; rows with shorter pasts leave slots invalid, and `valid`
says which. So groups with prompts of different lengths decode as one batch: positions differ per row, slots do not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moontune.model.layers import attention


class KvCache:
    """Per layer: keys and values [B, kv_heads, slots, head_dim], of which the first `length` slots are in use."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], valid_BS: Tensor, length: int) -> None:
        """Use `empty`; this takes tensors as they are."""
        self._keys, self._values, self._valid, self.length = keys, values, valid_BS, length

    @classmethod
    def empty(
        cls, layers: int, batch: int, kv_heads: int, head_dim: int, capacity: int, dtype: torch.dtype, device: str
    ) -> "KvCache":
        """A cache with nothing in it and room for `capacity` positions; it grows when more are appended."""
        shape = (batch, kv_heads, capacity, head_dim)
        keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        return cls(keys, values, torch.zeros(batch, capacity, dtype=torch.bool, device=device), 0)

    @property
    def batch(self) -> int:
        """Rows B."""
        return self._valid.shape[0]

    @property
    def capacity(self) -> int:
        """Slots allocated."""
        return self._valid.shape[1]

    @property
    def valid(self) -> Tensor:
        """Which of the slots in use hold a position of their row (bool [B, length])."""
        return self._valid[:, : self.length]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, unused slots included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self._keys, *self._values))

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values behind the past and return past and new, [B, kv_heads, S, head_dim].

        `length` moves only with `advance`, after the last layer.
        """
        stop = self.length + k.shape[2]
        if stop > self._keys[layer].shape[2]:
            self._grow(stop)
        self._keys[layer][:, :, self.length : stop] = k
        self._values[layer][:, :, self.length : stop] = v
        return self._keys[layer][:, :, :stop], self._values[layer][:, :, :stop]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """Append one layer's new keys and values; what queries find in past and new, [B, heads, T, head_dim]."""
        return attention(q, *self.append(layer, k, v), mask_BTS)

    def advance(self, count: int, valid_BT: Tensor | None = None) -> None:
        """Count the positions just appended in every layer; `valid_BT` False marks padding (all valid when None)."""
        stop = self.length + count
        self._valid[:, self.length : stop] = True if valid_BT is None else valid_BT
        self.length = stop

    def fork(self, batch: int, capacity: int | None = None) -> "KvCache":
        """A cache of `batch` copies of this one's only row, with room for `capacity` positions."""
        if self.batch != 1:
            raise ValueError(f"only a cache of one row forks, this one has {self.batch}")
        return stack([self], [batch], capacity)

    def select(self, rows: Tensor) -> "KvCache":
        """A cache of these rows (indices, in this order; a row may be repeated)."""
        keys = [tensor.index_select(0, rows) for tensor in self._keys]
        values = [tensor.index_select(0, rows) for tensor in self._values]
        return KvCache(keys, values, self._valid.index_select(0, rows), self.length)

    def write(self, start: int, source: "KvCache", count: int) -> None:
        """Copy the rows of `source`, each `count` times in a row, over this cache's rows from `start`, from slot 0."""
        stop = start + source.batch * count
        for layer in range(self.layers):
            k, v = source.layer(layer)
            self._keys[layer][start:stop, :, : source.length] = k.repeat_interleave(count, dim=0)
            self._values[layer][start:stop, :, : source.length] = v.repeat_interleave(count, dim=0)
        self._valid[start:stop, : source.length] = source.valid.repeat_interleave(count, dim=0)

    def _grow(self, least: int) -> None:
        more = max(least, 2 * self.capacity) - self.capacity
        self._keys = [torch.nn.functional.pad(tensor, (0, 0, 0, more)) for tensor in self._keys]
        self._values = [torch.nn.functional.pad(tensor, (0, 0, 0, more)) for tensor in self._values]
        self._valid = torch.nn.functional.pad(self._valid, (0, more))

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, slots in use only."""
        return self._keys[index][:, :, : self.length], self._values[index][:, :, : self.length]

    @property
    def layers(self) -> int:
        """How many layers."""
        return len(self._keys)


def stack(caches: Sequence[KvCache], repeats: Sequence[int], capacity: int | None = None) -> KvCache:
    """One cache of the rows of several, the rows of each repeated as often as asked; shorter pasts are padded.

    The padding sits behind each past, invalid, so that all rows append at the same slot next.
    """
    longest = max(cache.length for cache in caches)
    room = max(longest, capacity or 0)
    rows = sum(cache.batch * count for cache, count in zip(caches, repeats, strict=True))
    sample, _ = caches[0].layer(0)
    _, kv_heads, _, head_dim = sample.shape
    merged = KvCache.empty(caches[0].layers, rows, kv_heads, head_dim, room, sample.dtype, str(sample.device))
    start = 0
    for cache, count in zip(caches, repeats, strict=True):
        merged.write(start, cache, count)
        start += cache.batch * count
    merged.length = longest
    return merged
