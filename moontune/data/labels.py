"""Ground truth as plain JSON: the label keys of a moontune JSONL, of an imported data set and of predictions.

    "boxes": [[x_min, y_min, x_max, y_max], ...]         "categories": ["cat", ...]   one a box, may be left out
    "points": [[x, y], ...]
    "answers": ["2", "two"]
    "masks": [{"polygon": [[[x, y], ...], ...]}, {"size": [height, width], "counts": [...] or "..."}, {"path": "M ..."}]
    "poses": [{"keypoints": [[x, y], null, ...], "area": 0.2}]
    "image_size": [width, height]                         beside any of them

Run lengths are COCO's, compressed (text) or not (a list of numbers).
"""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image_size import ImageSize
from moontune.values.mask import Mask, PolygonMask, RleMask, SvgMask
from moontune.values.pose import Pose

LABEL_KEYS = ("boxes", "points", "answers", "masks", "poses", "categories", "image_size")
MOST = 1e300
Record = Mapping[str, object]
T = TypeVar("T")


def ground_truth(record: Record) -> GroundTruth:
    """The labels of a line; ValueError in words for lists of another form. Ranges are for `GroundTruth.validate`."""
    answers = _each(record, "answers", _text)
    if answers == ():
        raise ValueError("answers is []; allowed: a list of one or more texts")
    size = record.get("image_size")
    return GroundTruth(
        boxes=_each(record, "boxes", lambda row: Box(*_numbers(row, 4))),
        points=_each(record, "points", lambda row: Point(*_numbers(row, 2))),
        answers=answers,
        masks=_each(record, "masks", _mask),
        poses=_each(record, "poses", _pose),
        categories=_each(record, "categories", _text),
        image_size=None if size is None else ImageSize(*_whole(size, 2)),
    )


def ground_truth_record(truth: GroundTruth) -> dict[str, object]:
    """The keys of a line that hold these labels; `ground_truth` reads them back."""
    record: dict[str, object] = {}
    if truth.boxes is not None:
        record["boxes"] = [[box.x_min, box.y_min, box.x_max, box.y_max] for box in truth.boxes]
    if truth.points is not None:
        record["points"] = [[point.x, point.y] for point in truth.points]
    if truth.answers is not None:
        record["answers"] = list(truth.answers)
    if truth.masks is not None:
        record["masks"] = [_mask_record(mask) for mask in truth.masks]
    if truth.poses is not None:
        record["poses"] = [
            {"keypoints": [None if p is None else [p.x, p.y] for p in pose.keypoints], "area": pose.area}
            for pose in truth.poses
        ]
    if truth.categories is not None:
        record["categories"] = list(truth.categories)
    if truth.image_size is not None:
        record["image_size"] = [truth.image_size.width, truth.image_size.height]
    return record


def _each(record: Record, key: str, read: Callable[[object], T]) -> tuple[T, ...] | None:
    """Every entry of a list read, or None when the key is absent."""
    if key not in record or record[key] is None:
        return None
    given = record[key]
    if not isinstance(given, list):
        raise ValueError(f"{key} is {_shown(given)}; allowed: a list")
    try:
        return tuple(read(entry) for entry in cast("list[object]", given))
    except InvalidField:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{key} is {_shown(cast('object', given))}; allowed: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a list of texts")
    return value


def _numbers(value: object, count: int) -> list[float]:
    numbers = cast("list[object]", value) if isinstance(value, list) else []
    if len(numbers) != count or not all(_is_number(number) for number in numbers):
        raise ValueError(f"a list of lists of {count} numbers")
    return [float(cast("float", number)) for number in numbers]


def _whole(value: object, count: int) -> list[int]:
    numbers = _numbers(value, count)
    if not all(number.is_integer() for number in numbers):
        raise ValueError(f"{count} whole numbers")
    return [int(number) for number in numbers]


def _mask(value: object) -> Mask:
    entry = _mapping(value)
    if isinstance(path := entry.get("path"), str):
        return SvgMask(path)
    if isinstance(rings := entry.get("polygon"), list):
        return PolygonMask(tuple(_ring(ring) for ring in cast("list[object]", rings)))
    if "size" in entry:
        height, width = _whole(entry["size"], 2)
        counts = entry.get("counts")
        if isinstance(counts, str):
            return RleMask.from_coco(height, width, counts)
        runs = cast("list[object]", counts) if isinstance(counts, list) else [None]
        return RleMask(height, width, tuple(_whole(runs, len(runs))))
    raise ValueError("a list of {path}, {polygon} or {size, counts}")


def _ring(value: object) -> tuple[Point, ...]:
    corners = cast("list[object]", value) if isinstance(value, list) else [None]
    return tuple(Point(*_numbers(corner, 2)) for corner in corners)


def _pose(value: object) -> Pose:
    entry = _mapping(value)
    places, area = entry.get("keypoints"), entry.get("area")
    if not isinstance(places, list) or not _is_number(area):
        raise ValueError("a list of {keypoints, area}")
    points = [None if place is None else Point(*_numbers(place, 2)) for place in cast("list[object]", places)]
    return Pose(tuple(points), float(cast("float", area)))


def _mapping(value: object) -> Record:
    return cast("Record", value) if isinstance(value, dict) else cast("Record", {})


def _mask_record(mask: Mask) -> dict[str, object]:
    match mask:
        case RleMask():
            return {"size": [mask.height, mask.width], "counts": list(mask.counts)}
        case PolygonMask():
            return {"polygon": [[[point.x, point.y] for point in ring] for ring in mask.rings]}
        case _:
            return {"path": mask.path}


def _is_number(value: object) -> bool:
    """Whether it is a number that a float can hold: JSON knows integers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
