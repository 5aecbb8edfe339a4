"""Real handwritten digits (scikit-learn's `load_digits`, 8 x 8 greys), split between training and held-out."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image as Pil
from sklearn.datasets import load_digits

SPLIT_SEED = 20_260
"""Of the permutation that deals the digits out; the same for every seed of the demo, so no digit ever changes side."""

TRAIN_SHARE = 2 / 3
INK_THRESHOLD = 0.35
"""Opacity (of 1) above which a pixel counts as ink for the box."""


@dataclass(frozen=True, slots=True)
class InkedDigit:
    """One digit, ready to be laid on a picture.

    source: its index in `load_digits`. label: 0..9. alpha: opacity 0..1, cut to the ink, [height, width].
    """

    source: int
    label: int
    alpha: np.ndarray


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return bunch.images, bunch.target  # pyright: ignore[reportAttributeAccessIssue]  (a Bunch has no declared fields)


@cache
def split() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices into `load_digits`: (training, held-out), disjoint, together all of them."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(_digits()[1]))
    cut = int(len(order) * TRAIN_SHARE)
    return tuple(int(i) for i in order[:cut]), tuple(int(i) for i in order[cut:])


def ink(rng: np.random.Generator, sources: tuple[int, ...], height_px: int) -> InkedDigit:
    """A random digit of `sources`, smoothed up to about `height_px`, leaned by at most 15 degrees, cut to its ink."""
    source = sources[int(rng.integers(len(sources)))]
    greys, labels = _digits()
    stamp = Pil.fromarray(np.pad(greys[source] * (255 / 16), 1).astype(np.uint8))
    large = stamp.resize((height_px * 10 // 8, height_px * 10 // 8), Pil.Resampling.BICUBIC)
    leaned = large.rotate(float(rng.uniform(-15, 15)), Pil.Resampling.BICUBIC)
    opacity = np.asarray(leaned, dtype=np.float64) / 255
    # The scans are soft; a steeper ramp makes pen strokes of them: 0 below 0.25, 1 above 0.6.
    alpha = np.clip((opacity - 0.25) / 0.35, 0.0, 1.0)
    rows, columns = np.where(alpha > INK_THRESHOLD)
    cut = alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return InkedDigit(source, int(labels[source]), cut)
