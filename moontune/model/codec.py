"""The one codec between numbers in 0..1 and the bins of the region head.

Coordinates: bin = round((n - 1) v), v = bin / (n - 1).
Sizes, log scale over ten octaves: bin = round((log2(max(v, 2^-10)) + 10) / 10 (n - 1)), v = 2^(10 bin / (n - 1) - 10).
n is 1024 in every published base. Moondream's own inference decodes coordinates as bin / n instead, a difference of
0.001 at most: `UPSTREAM` selects that where parity with it is wanted; nothing else ever does.

The scalar functions need no torch, the `*_values` ones take integer tensors.
"""

import math
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

OCTAVES = 10
"""Sizes span 2^-10 to 1."""


class CoordDecoding(StrEnum):
    """How a coordinate bin becomes a number: over n - 1 (ours, and how labels are made) or over n (upstream)."""

    EXACT = "exact"
    UPSTREAM = "upstream"


def coord_to_bin(value: float, bins: int = 1024) -> int:
    """The bin of a coordinate; values outside 0..1 take the nearest end."""
    return round(min(max(value, 0.0), 1.0) * (bins - 1))


def bin_to_coord(index: int, bins: int = 1024, decoding: CoordDecoding = CoordDecoding.EXACT) -> float:
    """The coordinate of a bin, in 0..1."""
    return index / (bins - 1 if decoding is CoordDecoding.EXACT else bins)


def size_to_bin(value: float, bins: int = 1024) -> int:
    """The bin of a width or height; below 2^-10 it is the first, above 1 the last."""
    octave = math.log2(min(max(value, 2.0**-OCTAVES), 1.0)) + OCTAVES
    return round(octave / OCTAVES * (bins - 1))


def bin_to_size(index: int, bins: int = 1024) -> float:
    """The width or height of a bin, in 2^-10..1."""
    return 2.0 ** (OCTAVES * index / (bins - 1) - OCTAVES)


def coord_values(bins: "Tensor", count: int = 1024, decoding: CoordDecoding = CoordDecoding.EXACT) -> "Tensor":
    """`bin_to_coord` of an integer tensor, fp32."""
    return bins.float() / (count - 1 if decoding is CoordDecoding.EXACT else count)


def size_values(bins: "Tensor", count: int = 1024) -> "Tensor":
    """`bin_to_size` of an integer tensor, fp32."""
    return (bins.float() * (OCTAVES / (count - 1)) - OCTAVES).exp2()
