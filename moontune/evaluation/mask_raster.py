"""Masks as pixels: every form is sampled at the centres of one grid, so that any two can be compared.

A pixel belongs to a mask when its centre does. Run lengths are looked up without being unrolled, polygons and paths
are filled by counting crossings along each row, so that the time is linear in pixels and corners.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moontune.errors import InvalidField
from moontune.evaluation.matching import MAX_COORDINATE
from moontune.values.geometry import Point
from moontune.values.mask import Mask, PolygonMask, RleMask

MAX_GRID = 1024
"""Longest side of a grid in pixels; larger run lengths are sampled at fewer places."""
CURVE_PIECES = 16
MAX_SEGMENTS = 4096
MAX_CLOSED = 256
MAX_CELLS = 1 << 20
"""Pairs of place and corner that are looked at in one go."""

Raster = npt.NDArray[np.bool_]
Corners = npt.NDArray[np.float64]


def rasterise(mask: Mask, height: int, width: int) -> Raster:
    """The mask on a grid, [height, width]; InvalidField for a path that cannot be read."""
    match mask:
        case RleMask():
            return _sampled(mask, height, width)
        case PolygonMask():
            inside = np.zeros((height, width), dtype=np.bool_)
            for ring in mask.rings:
                inside |= _filled([_corners(ring)], height, width)
            return inside
        case _:
            return _filled(path_rings(mask.path), height, width)


def mask_iou_matrix(predicted: Sequence[Raster], actual: Sequence[Raster]) -> npt.NDArray[np.float64]:
    """IoU of every pair of rasters of one grid, [predicted, actual] in 0..1; 0 where both are empty."""
    if not predicted or not actual:
        return np.zeros((len(predicted), len(actual)))
    p, a = _packed(predicted), _packed(actual)
    common = np.array([np.bitwise_count(row & a).sum(axis=1, dtype=np.int64) for row in p], dtype=np.float64)
    union = _sizes(predicted)[:, None] + _sizes(actual)[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0.0)


def _packed(rasters: Sequence[Raster]) -> npt.NDArray[np.uint64]:
    """64 pixels in a word, [rasters, words]: a pair is compared a word at a time."""
    octets = np.packbits(np.stack([raster.ravel() for raster in rasters]), axis=1)
    return np.pad(octets, ((0, 0), (0, -octets.shape[1] % 8))).view(np.uint64)


def _sizes(rasters: Sequence[Raster]) -> npt.NDArray[np.float64]:
    return np.array([np.count_nonzero(raster) for raster in rasters], dtype=np.float64)


def cover_matrix(points: Sequence[Point], masks: Sequence[Mask]) -> npt.NDArray[np.float64]:
    """1 where the point (0..1) lies in the mask, or in its pixel for run lengths, else 0, [points, masks]."""
    if not points or not masks:
        return np.zeros((len(points), len(masks)))
    places = np.array([(point.x, point.y) for point in points], dtype=np.float64)
    usable = ((places >= 0.0) & (places <= 1.0)).sum(axis=1) == 2  # false for NaN
    places[~usable] = 0.0
    return np.stack([_covered(mask, places) & usable for mask in masks], axis=1).astype(np.float64)


def _covered(mask: Mask, places: Corners) -> Raster:
    if isinstance(mask, RleMask):
        rows = np.minimum(mask.height - 1, (places[:, 1] * mask.height).astype(np.int64))
        columns = np.minimum(mask.width - 1, (places[:, 0] * mask.width).astype(np.int64))
        return _is_inside(mask, columns * mask.height + rows)
    if isinstance(mask, PolygonMask):
        return np.any([_winding(_corners(ring), places) != 0 for ring in mask.rings], axis=0)
    turns = [_winding(ring, places) for ring in path_rings(mask.path)]
    return np.sum(turns, axis=0) != 0 if turns else np.zeros(len(places), dtype=np.bool_)


def path_rings(path: str) -> list[Corners]:
    """The closed rings of an SVG path, [corners, 2] each, curves cut into 16 straight pieces."""
    try:
        rings = [np.array(ring, dtype=np.float64) for ring in _traced(path) if len(ring) >= 3]
    except (ValueError, ArithmeticError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidField.of("path", path, "the data of an SVG path") from error
    if not all(np.isfinite(ring).all() and np.abs(ring).max() <= MAX_COORDINATE for ring in rings):
        raise InvalidField.of("path", path, f"finite coordinates of at most {MAX_COORDINATE:g}")
    return rings


def _traced(path: str) -> list[list[tuple[float, float]]]:
    """Corners of each subpath in the order drawn."""
    import svgelements  # not part of a plain install

    if path.count("z") + path.count("Z") > MAX_CLOSED:  # the parser looks back along the path at each of them
        raise ValueError(f"more than {MAX_CLOSED} closed subpaths")
    svg: Any = svgelements  # its types know nothing of what a segment's end is
    segments: list[Any] = list(svg.Path(path))
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"{len(segments)} segments; at most {MAX_SEGMENTS} are read")
    rings: list[list[tuple[float, float]]] = []
    for segment in segments:
        if isinstance(segment, svg.Move) or not rings:
            rings.append([])
        straight = isinstance(segment, svg.Move | svg.Line | svg.Close)
        pieces = 1 if straight else CURVE_PIECES
        places = [segment.point(piece / pieces) for piece in range(1, pieces)] + [segment.end]
        rings[-1] += [(float(place.x), float(place.y)) for place in places if place is not None]
    return rings


def _corners(ring: Sequence[Point]) -> Corners:
    return np.array([(point.x, point.y) for point in ring], dtype=np.float64)


def _sampled(mask: RleMask, height: int, width: int) -> Raster:
    rows = ((np.arange(height) + 0.5) * mask.height / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * mask.width / width).astype(np.int64)
    return _is_inside(mask, columns[None, :] * mask.height + rows[:, None])


def _is_inside(mask: RleMask, places: npt.NDArray[np.int64]) -> Raster:
    """Pixels by their place down the columns: inside in every second run."""
    ends = np.cumsum(np.array(mask.counts, dtype=np.int64))
    return (np.searchsorted(ends, places, side="right") & 1).astype(np.bool_)


def _filled(rings: Sequence[Corners], height: int, width: int) -> Raster:
    """Pixels whose centres the rings wind around (nonzero rule); only the part that they span is looked at."""
    inside = np.zeros((height, width), dtype=np.bool_)
    if not rings:
        return inside
    placed = [(ring * (width, height) - 0.5).tolist() for ring in rings]  # centres have whole numbers
    across, down = ([corner[axis] for ring in placed for corner in ring] for axis in (0, 1))
    left, top = max(0, math.ceil(min(across))), max(0, math.ceil(min(down)))
    right, bottom = min(width, math.floor(max(across)) + 1), min(height, math.floor(max(down)) + 1)
    if left < right and top < bottom:
        shifted = [[(x - left, y - top) for x, y in ring] for ring in placed]
        inside[top:bottom, left:right] = _wound(shifted, bottom - top, right - left)
    return inside


def _wound(rings: Sequence[Sequence[tuple[float, float]]], height: int, width: int) -> Raster:
    """An edge that crosses a row's centre line turns everything to its right by one, up or down.

    The turns are noted at the first centre right of the crossing and summed along the row.
    """
    turns = np.zeros((height, width + 1), dtype=np.int32)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            low, high = min(y0, y1), max(y0, y1)
            rows = np.arange(max(0, math.ceil(low)), min(height, math.ceil(high)))
            if rows.size:
                crossing = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
                column = np.clip(np.ceil(crossing), 0, width).astype(np.int64)
                turns[rows, column] += 1 if y1 > y0 else -1
    return turns[:, :width].cumsum(axis=1) != 0


def _winding(ring: Corners, places: Corners) -> npt.NDArray[np.int64]:
    """How often the ring winds around each place, [places]; a few places at a time, so that memory stays small."""
    rows = max(1, MAX_CELLS // len(ring))
    return np.concatenate([_winds(ring, places[start : start + rows]) for start in range(0, len(places), rows)])


def _winds(ring: Corners, places: Corners) -> npt.NDArray[np.int64]:
    x0, y0 = ring[:, 0], ring[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    x, y = places[:, :1], places[:, 1:]
    side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
    up, down = (y0 <= y) & (y1 > y) & (side > 0), (y1 <= y) & (y0 > y) & (side < 0)
    return up.sum(axis=1) - down.sum(axis=1)
