"""Keys and values of the rollouts that run: prefixes once each, and one row per rollout for what it has decided.

All rollouts behind one prefix read the same copy of it, so a group of G costs one prompt, in memory and in what a step
reads. A step's attention is one softmax over two parts: the scores on the prefix, as one batched product with the
queries of each prefix's rows side by side, and the scores on the row's own positions.

Rows have their own lengths, so prompts of any length decode together, and rows come and go at any step: the last row
moves into a gap. What memory may cost is the scheduler's to decide; the pool is as large as it is told to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moontune.engine.blocks import Blocks, blocks_of
from moontune.engine.kv_block import KvBlock
from moontune.engine.rows import Indices, Moves, close_up
from moontune.model.config import TextConfig
from moontune.model.inputs import Prefilled
from moontune.model.kv_cache import KvCache


@dataclass(frozen=True, slots=True, eq=False)
class PrefixKv:
    """A prompt that has been run. kv: [layers, 2 (keys, values), kv_heads, length, head_dim]. hidden_D: of its end."""

    kv: Tensor
    hidden_D: Tensor

    @property
    def length(self) -> int:
        """Positions."""
        return self.kv.shape[3]

    @property
    def size_bytes(self) -> int:
        """Of keys and values."""
        return self.kv.numel() * self.kv.element_size()


class KvPool(KvCache):
    """Stands in for a `KvCache` in passes of one new position a row."""

    def __init__(self, config: TextConfig, dtype: torch.dtype, device: torch.device, ahead_bytes: int) -> None:
        """Empty; `ahead_bytes` bounds how far it grows ahead of what is asked for."""
        self._device, self._dtype = device, dtype
        self._own = KvBlock(config, dtype, device, ahead_bytes)
        self._shared = KvBlock(config, dtype, device, ahead_bytes)
        self._prefixes: list[PrefixKv] = []
        self._prefix_of = np.zeros(0, dtype=np.int64)
        self._blocks: Blocks | None = None
        self._at = self._mask = torch.zeros(0, device=device)
        self._own_reach = self._shared_reach = 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._own.nbytes + self._shared.nbytes

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self._prefix_of)

    def join(self, prefix: PrefixKv, count: int, room: int, prefix_positions: int) -> None:
        """New rows behind a prefix. room, prefix_positions: what any row, and any prefix, must have place for."""
        place = next((index for index, each in enumerate(self._prefixes) if each is prefix), len(self._prefixes))
        if place == len(self._prefixes):
            self._shared.ensure(place + 1, prefix_positions, used=place)
            self._shared.write(place, prefix.kv)
            self._prefixes.append(prefix)
        self._own.ensure(self.rows + count, room, used=self.rows)
        self._prefix_of = np.concatenate((self._prefix_of, np.full(count, place)))
        self._blocks = None

    def leave(self, moves: Moves) -> None:
        """Close up as the rows did, and let go of prefixes that nobody is behind any more."""
        self._own.leave(moves, self._own_reach)
        self._prefix_of[moves.holes] = self._prefix_of[moves.sources]
        self._prefix_of = self._prefix_of[: moves.count]
        unused = np.ones(len(self._prefixes), dtype=bool)
        unused[self._prefix_of] = False
        if unused.any():
            gone = close_up(unused)
            self._shared.leave(gone, max(prefix.length for prefix in self._prefixes))
            order = np.arange(len(unused))
            order[gone.holes] = gone.sources
            self._prefixes = [self._prefixes[index] for index in order[: gone.count].tolist()]
            places = np.empty_like(order)
            places[order[: gone.count]] = np.arange(gone.count)
            self._prefix_of = places[self._prefix_of]
        self._blocks = None

    def fit(self) -> None:
        """Give back what nobody uses."""
        self._own.fit(self.rows)
        self._shared.fit(len(self._prefixes))

    def begin(self, positions: Indices) -> None:
        """Before a pass: row b's new position is `positions[b]` of its sequence, its prefix counted."""
        lengths = np.array([prefix.length for prefix in self._prefixes], dtype=np.int64)
        if self._blocks is None:
            self._blocks = blocks_of(np.arange(self.rows), self._prefix_of, self.rows, self._device)
        own = positions - lengths[self._prefix_of]
        self._own_reach, self._shared_reach = int(own.max()) + 1, int(lengths.max())
        self._at = self._own.places(own)
        hidden = np.zeros((self.rows, self._shared_reach + self._own_reach), dtype=bool)
        hidden[:, : self._shared_reach] = np.arange(self._shared_reach) >= lengths[self._prefix_of, None]
        hidden[:, self._shared_reach :] = np.arange(self._own_reach) > own[:, None]
        mask = torch.zeros(hidden.shape, dtype=torch.float32, device=self._device)
        self._mask = mask.masked_fill_(torch.from_numpy(hidden).to(self._device), float("-inf"))[:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """Append each row's new key and value, and attend to its prefix and its own positions: [B, heads, 1, head_dim].

        `mask_BTS` is not looked at: which positions there are is known here.
        """
        assert self._blocks is not None, "begin was not called"
        del mask_BTS
        blocks, count, width = self._blocks, self.rows, q.shape[-1]
        own_k, own_v = self._own.append(layer, self._at, k, v, self._own_reach)
        shared_k, shared_v = (blocks.of(part) for part in self._shared.read(layer, self._shared_reach))
        kv_heads = own_k.shape[1]
        # Query heads of one key head side by side: [B, kv_heads, heads / kv_heads, head_dim].
        q_BKRD = (q * width**-0.5).view(count, kv_heads, -1, width)
        on_shared = blocks.apart(_scores(blocks.together(q_BKRD), shared_k), q_BKRD.shape[2])
        scores_BKRS = torch.cat((on_shared, _scores(q_BKRD, own_k)), dim=-1) + self._mask
        shares = scores_BKRS.softmax(dim=-1).to(v.dtype)
        behind = shares[..., : self._shared_reach]
        found_BKRD = blocks.apart(torch.matmul(blocks.together(behind), shared_v), q_BKRD.shape[2])
        found_BKRD = found_BKRD + torch.matmul(shares[..., self._shared_reach :], own_v)
        return found_BKRD.view(count, -1, 1, width)

    def advance(self, count: int, valid_BT: Tensor | None = None) -> None:
        """Rows know their own lengths: nothing to do."""


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Products of queries [..., T, head_dim] and keys [..., S, head_dim], fp32 [..., T, S]."""
    if not (q.is_cuda and q.dtype is not torch.float32):
        return torch.matmul(q, k.transpose(-1, -2)).float()
    # Half-precision scores would lose what the softmax needs; the product is summed in fp32 anyway.
    flat = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(-1, -2), out_dtype=torch.float32)
    return flat.view(*q.shape[:-1], k.shape[-2])


def split_prefixes(ready: Prefilled, lengths: Sequence[int]) -> list[PrefixKv]:
    """The rows of a prefilled cache, each cut to its own length and in memory of its own."""
    layers = [torch.stack(ready.cache.layer(layer)) for layer in range(ready.cache.layers)]
    whole = torch.stack(layers)  # [layers, 2, B, kv_heads, S, head_dim]
    return [
        PrefixKv(
            whole[:, :, row, :, :length].clone(memory_format=torch.contiguous_format), ready.hidden_BD[row].clone()
        )
        for row, length in enumerate(lengths)
    ]
