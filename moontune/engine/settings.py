"""Limits and budgets of an engine. No torch: a front process sends them to its worker."""

from dataclasses import dataclass, field

from moontune.imaging.decode import ImageLimits

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine may use.

    max_sequences: rollouts decoded at once. prefill_positions: of prompts and images run between two decode steps, so
    that those who decode are not held up; one prompt's image is always run in one piece.

    Budgets in bytes. kv_bytes: keys and values of running rollouts; a request waits for room, and is refused when it
    could never have it. prefix_cache_bytes: keys and values of prompts kept for the next request with the same one.
    image_cache_bytes: image tokens. adapter_cache_bytes: adapters on the device; adapter_host_bytes: adapters in the
    host's memory, read and checked. share_prefixes: off runs every rollout's prompt anew (for measurements).
    """

    max_sequences: int = 128
    prefill_positions: int = 2048
    kv_bytes: int = 2048 * MEBIBYTE
    prefix_cache_bytes: int = 256 * MEBIBYTE
    image_cache_bytes: int = 256 * MEBIBYTE
    adapter_cache_bytes: int = 512 * MEBIBYTE
    adapter_host_bytes: int = 1024 * MEBIBYTE
    share_prefixes: bool = True
    image_limits: ImageLimits = field(default_factory=ImageLimits)
