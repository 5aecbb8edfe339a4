"""Adapters resident on the engine's module tree: loaded by digest, evicted least recently used."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from moontune.engine.order import AdapterRef
from moontune.model.lora import Adapters
from moontune.model.moondream import Moondream
from moontune.values.engine import CacheStatus
from moontune.values.finetune import LoraTarget


class AdapterSlots:
    """One adapter acts at a time; others stay attached for the next batch while their bytes fit the budget.

    Versions are immutable: a digest is loaded once and never refreshed. The acting adapter is never evicted, so one
    that is larger than the whole budget still serves, alone.
    """

    def __init__(self, module: Moondream, budget_bytes: int) -> None:
        """`module` is the engine's own tree; its parameters may be shared with others."""
        self._adapters = Adapters(module)
        self._budget_bytes = budget_bytes
        self._resident: OrderedDict[str, int] = OrderedDict()
        self._pinned: set[str] = set()
        self._hits = self._misses = self._evictions = 0

    def activate(self, ref: AdapterRef | None) -> None:
        """Let this adapter act in the coming passes, loading it first if need be; None is the bare base.

        Raises InvalidField or CheckpointCorrupt when its files are not an adapter of this base.
        """
        if ref is None:
            self._adapters.activate(None)
            return
        if ref.digest in self._resident:
            self._hits += 1
            self._resident.move_to_end(ref.digest)
        else:
            self._misses += 1
            self._load(ref)
        self._adapters.activate(_name(ref.digest))

    def vision_digest(self, ref: AdapterRef | None) -> str:
        """What image features depend on: the adapter's digest when it touches the vision tower, else ""."""
        if ref is None or LoraTarget.VISION not in self._adapters.settings(_name(ref.digest)).targets:
            return ""
        return ref.digest

    def pin(self, digest: str) -> None:
        """Keep a resident adapter from eviction until it is unloaded; pinned ones may exceed the budget."""
        self._pinned.add(digest)

    def unload(self, digest: str) -> bool:
        """Forget an adapter; False when it was not resident."""
        self._pinned.discard(digest)
        if self._resident.pop(digest, None) is None:
            return False
        self._adapters.remove(_name(digest))
        return True

    @property
    def pinned(self) -> frozenset[str]:
        """Digests that are kept from eviction."""
        return frozenset(self._pinned)

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes by digest, least recently used first."""
        return dict(self._resident)

    def status(self) -> CacheStatus:
        """Counters and bytes."""
        resident_bytes = sum(self.resident.values())
        return CacheStatus(
            "adapter_device", resident_bytes, self._budget_bytes, self._hits, self._misses, self._evictions
        )

    def _load(self, ref: AdapterRef) -> None:
        name = _name(ref.digest)
        self._adapters.load(name, Path(ref.path))
        parameters = self._adapters.parameters(name).values()
        self._resident[ref.digest] = sum(each.numel() * each.element_size() for each in parameters)
        for digest in list(self._resident):
            if sum(self._resident.values()) <= self._budget_bytes:
                return
            if digest != ref.digest and digest not in self._pinned:
                del self._resident[digest]
                self._adapters.remove(_name(digest))
                self._evictions += 1


def _name(digest: str) -> str:
    """A digest as torch accepts it in a module's name."""
    return digest.replace(":", "_")
