"""Limits and budgets of an engine. No torch: a front process sends them to its worker."""

from dataclasses import dataclass, field

from moontune.imaging.decode import ImageLimits

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine may use.

    max_sequences: rollouts decoded at once; a larger single order still runs, alone. gather_s: how long a batch that
    is about to start waits for one more order to join it, each time one has; 0 starts at once. image_cache_bytes: of
    image tokens. adapter_cache_bytes: of adapters kept on the device.
    """

    max_sequences: int = 128
    gather_s: float = 0.003
    image_cache_bytes: int = 256 * MEBIBYTE
    adapter_cache_bytes: int = 512 * MEBIBYTE
    image_limits: ImageLimits = field(default_factory=ImageLimits)


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Counters of one cache since the start; entries and bytes as of now."""

    entries: int
    resident_bytes: int
    budget_bytes: int
    hits: int
    misses: int
    evictions: int


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """Counts since the start, but for `running` and `running_sequences`: orders and rollouts in the batch under way.

    orders, sequences, decisions: answered. steps: decode steps of all batches. cancelled: orders whose caller left.
    """

    running: int = 0
    running_sequences: int = 0
    orders: int = 0
    sequences: int = 0
    decisions: int = 0
    steps: int = 0
    batches: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What an engine is doing. waiting: orders that have not begun. adapters: digests resident, oldest use first."""

    base: str
    base_digest: str
    waiting: int
    totals: EngineTotals
    images: CacheStatus
    adapter_cache: CacheStatus
    adapters: tuple[str, ...]
