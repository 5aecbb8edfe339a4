"""The random numbers of rollouts: a function of seed and step alone, so that neighbours change nothing.

SplitMix64 by index: the n-th number of a seed is mix(seed + n * GOLDEN) (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014). Computed on the host for all rows at once; every device sees the same.
"""

import numpy as np
from numpy.typing import NDArray

DRAWS_PER_STEP = 2
"""A decode step takes at most two decisions per row: go-on and x, or width and height."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_DRAWS_2 = np.arange(1, DRAWS_PER_STEP + 1, dtype=np.uint64)


def uniforms(seeds_B: NDArray[np.uint64], steps_B: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1), [B, 2]: row b's two for its step number `steps_B[b]`, counted from 0."""
    index_B2 = steps_B.astype(np.uint64)[:, None] * np.uint64(DRAWS_PER_STEP) + _DRAWS_2
    mixed_B2 = seeds_B[:, None] + index_B2 * _GOLDEN  # wraps around 2^64, as it should
    mixed_B2 = (mixed_B2 ^ (mixed_B2 >> np.uint64(30))) * _FIRST
    mixed_B2 = (mixed_B2 ^ (mixed_B2 >> np.uint64(27))) * _SECOND
    mixed_B2 ^= mixed_B2 >> np.uint64(31)
    return (mixed_B2 >> np.uint64(11)).astype(np.float64) * 2.0**-53
