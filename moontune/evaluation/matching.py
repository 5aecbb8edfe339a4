"""One-to-one matching of predictions to truth, given a matrix of scores.

Rows are predictions, columns are truth, higher is better. Three questions, three functions:
    greedy_matches     best pair first, as most published evaluators do; cheap, may miss a pair
    optimal_matches    the pairs with the largest total score (Hungarian method, scipy)
    most_matches       the largest number of pairs at or above a threshold, and among those the largest total
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from moontune.values.geometry import Box, Point

MAX_COORDINATE = 1e6
"""A box with a coordinate beyond this (pixels of any image fit) or not finite overlaps nothing."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """One pair: index of the prediction, index of the truth, and their score."""

    predicted: int
    actual: int
    score: float


def iou_matrix(predicted: Sequence[Box], actual: Sequence[Box]) -> Scores:
    """IoU of every pair, [predicted, actual] in 0..1; 0 for boxes without area or beyond MAX_COORDINATE."""
    if not predicted or not actual:
        return np.zeros((len(predicted), len(actual)))
    p, a = _corners(predicted), _corners(actual)
    width, height = _overlap(p, a, 0), _overlap(p, a, 1)
    intersection = np.multiply(width, height, out=width)
    union = np.subtract(np.add.outer(_area(p), _area(a)), intersection, out=height)
    # Where nothing overlaps 0 / 1 is 0; a union of 0 has no overlap either.
    np.copyto(union, 1.0, where=union <= 0.0)
    return np.divide(intersection, union, out=intersection)


def distance_matrix(predicted: Sequence[Point], actual: Sequence[Point]) -> Scores:
    """Euclidean distance of every pair, [predicted, actual], in their units; infinite beyond MAX_COORDINATE."""
    if not predicted or not actual:
        return np.zeros((len(predicted), len(actual)))
    p, a = _places(predicted), _places(actual)
    with np.errstate(invalid="ignore", over="ignore"):  # coordinates that are not finite are infinitely far
        distances = np.hypot(np.subtract.outer(p[0], a[0]), np.subtract.outer(p[1], a[1]))
        np.copyto(distances, np.inf, where=~(distances <= MAX_COORDINATE))
    return distances


def containment_matrix(predicted: Sequence[Point], actual: Sequence[Box]) -> Scores:
    """1 where the point lies inside or on the edge of the box, else 0, [predicted, actual]."""
    if not predicted or not actual:
        return np.zeros((len(predicted), len(actual)))
    (x, y), a = _places(predicted), np.array([(box.x_min, box.y_min, box.x_max, box.y_max) for box in actual]).T
    across = np.greater_equal.outer(x, a[0]) & np.less_equal.outer(x, a[2])
    return (across & np.greater_equal.outer(y, a[1]) & np.less_equal.outer(y, a[3])).astype(np.float64)


def greedy_matches(scores: Scores, threshold: float = 0.0) -> list[Match]:
    """Repeatedly take the best pair left whose score is above 0 and at least the threshold.

    Equal scores are taken by lower truth index, then lower prediction index.
    """
    candidates = np.argwhere((scores >= threshold) & (scores > 0.0))
    order = sorted((-scores[row, column], int(column), int(row)) for row, column in candidates)
    rows: set[int] = set()
    columns: set[int] = set()
    matches: list[Match] = []
    for negative, column, row in order:
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            matches.append(Match(row, column, float(-negative)))
    return matches


def optimal_matches(scores: Scores) -> list[Match]:
    """The one-to-one pairs with the largest total score; pairs that score 0 or less are left out."""
    return [match for match in _assign(scores) if match.score > 0.0]


def best_total(scores: Scores) -> float:
    """Total of `optimal_matches`, without the pairs: what a reward needs, a few times faster."""
    if scores.size == 0:
        return 0.0
    worth = np.maximum(scores, 0.0)
    if min(worth.shape) == 1:
        return float(worth.max())
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(worth[rows, columns].sum())


def most_matches(scores: Scores, threshold: float) -> list[Match]:
    """As many pairs at or above the threshold as one-to-one matching allows; ties go to the larger total score.

    Unlike greedy matching the number of pairs does not depend on the order of rows and columns.
    """
    eligible = (scores >= threshold) & (scores > 0.0)
    if not eligible.any():
        return []
    # A pair is worth 1 and its score decides only between equally many pairs: the tie-break sums to less than 1.
    smaller = min(scores.shape)
    top = float(scores[eligible].max())
    worth = np.where(eligible, 1.0 + scores / (top * (smaller + 1.0)), 0.0)
    return [
        Match(match.predicted, match.actual, float(scores[match.predicted, match.actual]))
        for match in _assign(worth)
        if eligible[match.predicted, match.actual]
    ]


def _assign(worth: Scores) -> list[Match]:
    if worth.size == 0:
        return []
    positive = worth > 0.0
    if positive.sum(axis=0).max() <= 1 and positive.sum(axis=1).max() <= 1:  # nobody competes: no solver needed
        return [Match(int(row), int(column), float(worth[row, column])) for row, column in np.argwhere(positive)]
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [Match(int(row), int(column), float(worth[row, column])) for row, column in zip(rows, columns, strict=True)]


def _places(points: Sequence[Point]) -> Scores:
    """[2, points]: x, y."""
    return np.array([(point.x, point.y) for point in points], dtype=np.float64).T


def _corners(boxes: Sequence[Box]) -> Scores:
    """[4, boxes]: x_min, y_min, x_max, y_max; zeros for a box that is not usable."""
    corners = np.array([(box.x_min, box.y_min, box.x_max, box.y_max) for box in boxes], dtype=np.float64).T
    far = ~(np.abs(corners) <= MAX_COORDINATE)  # true for NaN too
    if far.any():
        corners[:, far.any(axis=0)] = 0.0
    return corners


def _overlap(p: Scores, a: Scores, axis: int) -> Scores:
    """Length that every pair has in common along x (0) or y (1)."""
    common = np.minimum.outer(p[axis + 2], a[axis + 2])
    common -= np.maximum.outer(p[axis], a[axis])
    return np.maximum(common, 0.0, out=common)


def _area(corners: Scores) -> Scores:
    return np.maximum(corners[2] - corners[0], 0.0) * np.maximum(corners[3] - corners[1], 0.0)
