"""The weights of a golden directory, which stores none: the rule of its README, checked against the manifest's sums.

One generator; parameters in sorted order of their names; each a standard normal times std, where std is 1 for names
that end in `_features`, 1.6 / sqrt(last dimension) with two or more dimensions, else 0.05; a LayerNorm's weight gets
+1. `text.wte` alone is drawn twice, the second time with std 1.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SEEDS_TRIED = 1_000_000
SUM_TOLERANCE = 1e-5
"""Of a parameter's sum, as a share of its sum of absolute values."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the manifest says of one parameter."""

    shape: tuple[int, ...]
    total: float
    absolute_total: float

    def fits(self, drawn: Tensor) -> bool:
        """Whether a drawn parameter has these sums."""
        return math.isclose(float(drawn.double().abs().sum()), self.absolute_total, rel_tol=SUM_TOLERANCE) and (
            abs(float(drawn.double().sum()) - self.total) <= SUM_TOLERANCE * self.absolute_total
        )


Manifest = Mapping[str, Expected]


def fill(manifest: Manifest, seed: int) -> dict[str, Tensor]:
    """Every parameter by name, fp32."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, manifest[name].shape, generator) for name in sorted(manifest)}


def misfits(manifest: Manifest, state: Mapping[str, Tensor]) -> list[str]:
    """Names of the parameters whose sums are not the manifest's."""
    return [name for name, expected in manifest.items() if not expected.fits(state[name])]


def find_seed(manifest: Manifest, folder: Path) -> int:
    """The seed whose first parameter has the manifest's sums: the one in the folder's name, else the smallest."""
    named = [int(digits) for digits in re.findall(r"seed[_-]?(\d+)", folder.name)]
    first = min(manifest)
    for seed in _unique((*named, *range(SEEDS_TRIED))):
        if manifest[first].fits(_draw(first, manifest[first].shape, torch.Generator().manual_seed(seed))):
            return seed
    raise ValueError(f"no seed below {SEEDS_TRIED} gives {first} the sums of {folder / 'weights_manifest.json'}")


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    std = 1.0 if name.endswith("_features") else 1.6 / shape[-1] ** 0.5 if len(shape) >= 2 else 0.05
    drawn = torch.randn(shape, generator=generator) * std
    if name == "text.wte":
        return torch.randn(shape, generator=generator)
    is_norm = name.endswith("weight") and (".ln" in name or "post_ln" in name)
    return drawn + 1.0 if is_norm else drawn


def _unique(seeds: Iterable[int]) -> Iterable[int]:
    return dict.fromkeys(seeds)
