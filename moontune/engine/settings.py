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
    share_prefixes: bool = True
    image_limits: ImageLimits = field(default_factory=ImageLimits)
