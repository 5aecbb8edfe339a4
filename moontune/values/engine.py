"""What a generation engine holds and does at one moment."""

from dataclasses import dataclass, field

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
class EngineWork:
    """Counted since the process started.

    steps: decode steps. row_steps, adapter_steps: rollouts, and distinct adapters, summed over the steps, so that
    divided by steps they are the mean batch and the mean number of adapters in it. stopped, cut: rollouts that ended by
    their own decision, and by a limit. cancelled: orders whose caller left. settled: orders decoded once more by
    themselves, because a greedy choice was a close call. images, images_s: images run through the vision tower, and the
    seconds that it took.
    """

    steps: int = 0
    row_steps: int = 0
    adapter_steps: int = 0
    stopped: int = 0
    cut: int = 0
    cancelled: int = 0
    settled: int = 0
    images: int = 0
    images_s: float = 0.0


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
    work: EngineWork = field(default_factory=EngineWork)
