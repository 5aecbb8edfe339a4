"""Confidence intervals of pooled metrics, by resampling images.

Objects within an image are not independent, images are: the image is the unit that is drawn. For a difference the
same images are drawn on both sides (paired), which removes the variance that both systems share.
Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moontune.errors import InvalidField
from moontune.evaluation.tally import Tally, pooled

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with the ends of its interval."""

    estimate: float
    low: float
    high: float


def paired_difference(
    before: Sequence[Tally],
    after: Sequence[Tally],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of metric(after) - metric(before), both over the same images in the same order.

    Args:
        before: one tally per image.
        after: one tally per image, in the order of `before`.
        confidence: share of the bootstrap distribution inside the interval, in (0, 1).
        resamples: draws; 2000 settles the ends to about 0.005.
        seed: same seed, same interval.
    """
    if len(before) != len(after):
        raise InvalidField.of("after", f"{len(after)} images", f"as many as before, which has {len(before)}")
    weights = _weights(len(before), resamples, seed)
    draws = _resampled(after, weights) - _resampled(before, weights)
    low, high = _ends(draws, confidence)
    return Interval(pooled(after) - pooled(before), low, high)


def pooled_interval(
    tallies: Sequence[Tally], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interval of one pooled metric over images."""
    low, high = _ends(_resampled(tallies, _weights(len(tallies), resamples, seed)), confidence)
    return Interval(pooled(tallies), low, high)


def _weights(images: int, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """How often each image is drawn in each resample, [resamples, images]; drawing n of n with replacement."""
    if not images:
        raise InvalidField.of("images", 0, "at least 1")
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1.0 / images), size=resamples).astype(np.float64)


def _resampled(tallies: Sequence[Tally], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    numerator = weights @ np.array([tally.numerator for tally in tallies])
    denominator = weights @ np.array([tally.denominator for tally in tallies])
    # A resample without any object nor prediction is perfect, as in `pooled`.
    return np.divide(numerator, denominator, out=np.ones_like(numerator), where=denominator > 0.0)


def _ends(draws: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    if not 0.0 < confidence < 1.0:
        raise InvalidField.of("confidence", confidence, "more than 0 and less than 1")
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)
