"""Prompts that have been run: keys and values by adapter, image and prompt, and the passes that make them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from moontune.engine.byte_cache import ByteCache
from moontune.engine.device_adapters import DeviceAdapters
from moontune.engine.kv_pool import PrefixKv, split_prefixes
from moontune.engine.plan import PrefixKey
from moontune.model.base_model import BaseModel
from moontune.model.inputs import Prefilled, embed_prefix, embed_prompt, prefill_rows
from moontune.model.prompt import Prompt
from moontune.values.engine import CacheStatus


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A prompt to run behind an image (tokens [P, D]; None for text only) with an adapter ("" for the base)."""

    prompt: Prompt
    image_PD: Tensor | None
    adapter: str

    @property
    def length(self) -> int:
        """Positions."""
        return 1 + (0 if self.image_PD is None else len(self.image_PD)) + len(self.prompt)


class Prefixes:
    """An LRU in bytes; a prefix is never found under another adapter, image or prompt than its own."""

    def __init__(self, base: BaseModel, adapters: DeviceAdapters, budget_bytes: int, pass_positions: int) -> None:
        """pass_positions: most positions of one pass, but for what attends in both directions, which is one piece."""
        self._base, self._adapters, self._pass_positions = base, adapters, pass_positions
        self._cache: ByteCache[PrefixKey, PrefixKv] = ByteCache(budget_bytes)

    def held(self, key: PrefixKey) -> PrefixKv | None:
        """A prefix that is kept."""
        return self._cache.get(key)

    def keep(self, key: PrefixKey, prefix: PrefixKv) -> None:
        """Keep a prefix for the next request with the same one."""
        if key not in self._cache:
            self._cache.put(key, prefix, prefix.size_bytes)

    def fill_pass(self, wanted: Sequence[Wanted]) -> int:
        """How many of the first of these go into one pass, padded to the longest."""
        longest = 0
        for index, each in enumerate(wanted):
            longest = max(longest, each.length)
            if (index + 1) * longest > self._pass_positions:
                return max(1, index)
        return len(wanted)

    def run(self, wanted: Sequence[Wanted]) -> Iterator[list[PrefixKv] | None]:
        """Run prompts as one batch; yields None after a pass that leaves some to do, and the prefixes at the end.

        One prompt that is longer than a pass is run in pieces: its image with the first part of the text, then the
        rest, each piece attending to all before it.
        """
        rows = [self._embed(each) for each in wanted]
        digests = tuple(each.adapter for each in wanted)
        prompts = [len(each.prompt) for each in wanted]
        model, first, rest = self._base.module, rows, torch.empty(0)
        if len(rows) == 1 and len(rows[0]) > self._pass_positions:
            cut = max(len(rows[0]) - prompts[0] + 1, self._pass_positions)
            first, rest = [rows[0][:cut]], rows[0][cut:]
            prompts = [prompts[0] - len(rest)]
        self._adapters.act(digests)
        ready = prefill_rows(model, first, prompts, capacity=max(len(row) for row in rows))
        pieces = cast("tuple[Tensor, ...]", rest.split(self._pass_positions)) if len(rest) else ()
        for piece_TD in pieces:
            yield None
            self._adapters.act(digests)
            start = int(ready.positions_B[0])
            positions_1T = torch.arange(start, start + len(piece_TD), device=model.device)[None]
            hidden_1TD = model.hidden(piece_TD[None], positions_1T, cache=ready.cache)
            ready = Prefilled(ready.cache, hidden_1TD[:, -1], ready.positions_B + len(piece_TD))
        yield split_prefixes(ready, [each.length for each in wanted])

    def status(self) -> CacheStatus:
        """Counters and bytes."""
        cache = self._cache
        return CacheStatus(
            "prefix", cache.resident_bytes, cache.budget_bytes, cache.hits, cache.misses, cache.evictions
        )

    def _embed(self, wanted: Wanted) -> Tensor:
        model = self._base.module
        if wanted.prompt.coords:  # places in the prompt are read by the region head, which the adapter may act on
            self._adapters.act((wanted.adapter,))
        return torch.cat((embed_prefix(model, wanted.image_PD), embed_prompt(model, wanted.prompt)))
