"""What a generation engine holds and does at one moment."""

from dataclasses import dataclass

from moontune.values.adapter import AdapterStatus


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """A cache: bytes now and at most; look-ups since the process started; entries dropped for room."""

    name: str
    size_bytes: int
    budget_bytes: int
    hits: int = 0
    misses: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """An engine: its base and device, sequences running and waiting, keys and values held, caches, adapters."""

    base: str
    base_digest: str
    device: str
    running: int
    waiting: int
    max_batch: int
    kv_bytes: int = 0
    kv_budget_bytes: int = 0
    caches: tuple[CacheStatus, ...] = ()
    adapters: tuple[AdapterStatus, ...] = ()
