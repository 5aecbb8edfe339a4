"""The host tier: adapters read from their files, checked, and kept in memory by digest."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moontune.engine.order import AdapterRef
from moontune.engine.residency import Residency
from moontune.errors import Cancelled, InvalidField
from moontune.model.adapter_tensors import LoraPair
from moontune.model.config import MoondreamConfig
from moontune.model.full_weights import is_full
from moontune.model.lora_layers import REGION
from moontune.model.peft_folder import read_adapter
from moontune.values.engine import CacheStatus
from moontune.values.finetune import FinetuneKind

POLL_S = 0.05
"""How often a caller that waits for room is asked whether it is still there."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class HostAdapter:
    """An adapter in memory, in fp32. layers: by module name, a [r, in] and b [out, r]; the delta is scale b a x.

    full: the region head's tensors by parameter name where it brings its own (kind lora+region), else none. Then no
    layer is of the region head: a delta on it is in those tensors.
    """

    digest: str
    layers: Mapping[str, LoraPair]
    full: Mapping[str, Tensor]
    rank: int
    scale: float
    size_bytes: int

    @property
    def adapts_vision(self) -> bool:
        """Whether image tokens depend on it."""
        return any(name.startswith("vision.") for name in self.layers)

    @property
    def adapts_region(self) -> bool:
        """Whether coordinates and sizes are read or written through it."""
        return bool(self.full) or any(name.startswith("region.") for name in self.layers)


class HostAdapters:
    """Adapters by digest within a budget in bytes; those in use stay, whoever wants room waits.

    Thread-safe. Files are read by the caller's thread, once however many want them, and no decode step waits.
    """

    def __init__(self, config: MoondreamConfig, budget_bytes: int) -> None:
        """Adapters must fit the architecture of `config`."""
        self._config = config
        self._changed = threading.Condition()
        self._tier = Residency(budget_bytes)
        self._held: dict[str, HostAdapter] = {}
        self._loading: set[str] = set()
        self._draining: set[str] = set()

    def take(self, ref: AdapterRef, cancelled: Callable[[], bool]) -> HostAdapter:
        """The adapter, not let go until it is given back.

        Raises InvalidField (not an adapter of this base, or larger than the budget), CheckpointCorrupt or Cancelled.
        """
        with self._changed:
            while ref.digest in self._loading or ref.digest in self._draining:
                self._wait(cancelled)
            if ref.digest in self._held:
                self._tier.reserve(ref.digest, 0)
                return self._held[ref.digest]
            self._loading.add(ref.digest)
        try:
            adapter = _read(ref, self._config)
            with self._changed:
                self._reserve(adapter, cancelled)
                self._held[ref.digest] = adapter
            return adapter
        finally:
            with self._changed:
                self._loading.discard(ref.digest)
                self._changed.notify_all()

    def give_back(self, digest: str) -> None:
        """Close one `take`."""
        with self._changed:
            self._tier.release(digest)
            self._changed.notify_all()

    def drain(self, digest: str, cancelled: Callable[[], bool], then: Callable[[], bool]) -> bool:
        """Wait until nobody uses the adapter, do `then`, and let go of it; whether it was here, or `then` says so.

        Those who want it meanwhile wait, and read it anew.
        """
        with self._changed:
            while digest in self._draining:
                self._wait(cancelled)
            self._draining.add(digest)
            try:
                while self._tier.users(digest) or digest in self._loading:
                    self._wait(cancelled)
                elsewhere = then()
                self._tier.remove(digest)
                return self._held.pop(digest, None) is not None or elsewhere
            finally:
                self._draining.discard(digest)
                self._changed.notify_all()

    def pin(self, digest: str) -> None:
        """Keep an adapter until it is unloaded."""
        with self._changed:
            self._tier.pin(digest)

    @property
    def pinned(self) -> frozenset[str]:
        """Digests that are kept until they are unloaded."""
        return self._tier.pinned

    @property
    def draining(self) -> frozenset[str]:
        """Digests that go once their last order is done."""
        return frozenset(self._draining)

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes by digest, least recently used first."""
        with self._changed:
            return self._tier.resident

    def users(self, digest: str) -> int:
        """Orders that use it now."""
        return self._tier.users(digest)

    def status(self) -> CacheStatus:
        """Counters and bytes."""
        with self._changed:
            tier = self._tier
            return CacheStatus(
                "adapter_host", tier.resident_bytes, tier.budget_bytes, tier.hits, tier.misses, tier.evictions
            )

    def _reserve(self, adapter: HostAdapter, cancelled: Callable[[], bool]) -> None:
        if adapter.size_bytes > self._tier.budget_bytes:
            allowed = f"at most {self._tier.budget_bytes} bytes, the engine's budget for adapters in memory"
            raise InvalidField.of("adapter", f"{adapter.size_bytes} bytes", allowed)
        while (evicted := self._tier.reserve(adapter.digest, adapter.size_bytes)) is None:
            self._wait(cancelled)
        for digest in evicted:
            del self._held[digest]

    def _wait(self, cancelled: Callable[[], bool]) -> None:
        self._changed.wait(POLL_S)
        if cancelled():
            raise Cancelled("the caller left, or its deadline passed, while it waited for an adapter")


def _read(ref: AdapterRef, config: MoondreamConfig) -> HostAdapter:
    folder = Path(ref.path)
    if is_full(folder):
        allowed = (
            "lora or lora+region: a full finetune is a base of its own and not mixed with others; export it merged and "
            "start a service on that"
        )
        raise InvalidField.of("adapter.kind", str(FinetuneKind.FULL), allowed)
    adapter = read_adapter(folder, config)
    layers, full = dict(adapter.layers), dict(adapter.full)
    for name in [name for name in layers if full and name.startswith(f"{REGION}.")]:
        pair = layers.pop(name)
        full[f"{name}.weight"] = full[f"{name}.weight"] + adapter.scale * pair.b @ pair.a
    return HostAdapter(ref.digest, layers, full, adapter.lora.rank, adapter.scale, adapter.size_bytes)
