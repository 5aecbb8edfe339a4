"""Objects in an output: of the skill itself (detect, point), or written as JSON in a text answer.

A text answer is a list of items, `{"bbox_2d": [x_min, y_min, x_max, y_max], "label": "cat", "confidence": 0.9}` say, or
of bare coordinates. Corners in the wrong order stay as they are: such a box has no area and counts against the answer.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.mask import MAX_PATH_CHARACTERS, Mask, PolygonMask, RleMask, SvgMask
from moontune.values.output import DetectOutput, PointOutput
from moontune.values.reward import RewardSample
from services.reward.reading.text import answer_json, answer_text, is_number
from services.reward.reading.unreadable import Unreadable

MAX_ITEMS = 1_000
BOX_KEYS = ("bbox_2d", "bbox", "box")
POINT_KEYS = ("point_2d", "point")
CATEGORY_KEYS = ("label", "category", "class", "name")
CONFIDENCE_KEYS = ("confidence", "score")
MASK_KEYS = ("mask", "segmentation", "polygon", "path")
LIST_KEYS = ("objects", "boxes", "points", "masks", "poses")
Item = dict[str, object]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Predicted boxes. categories: None where the skill asked for one kind of object. confidences: in 0..1."""

    boxes: tuple[Box, ...]
    categories: tuple[str, ...] | None = None
    confidences: tuple[float, ...] | None = None

    def keys(self, truth: GroundTruth) -> Sequence[Hashable]:
        """What makes two of them copies: the box, and its category where the truth tells categories apart."""
        if truth.categories is None or self.categories is None:
            return self.boxes
        return tuple(zip(self.boxes, self.categories, strict=True))


def predicted_boxes(sample: RewardSample, coordinates: str) -> Boxes:
    """The output's boxes; coordinates: the scale of those in a text answer."""
    if isinstance(sample.output, DetectOutput):
        return Boxes(sample.output.objects)
    items = written_items(sample)
    across, down = _scale(sample, coordinates)
    rows = [_numbers(_first(item, BOX_KEYS), 4) for item in items]
    boxes = tuple(Box(row[0] * across, row[1] * down, row[2] * across, row[3] * down) for row in rows)
    categories = tuple(_category(item) for item in items)
    return Boxes(boxes, categories, tuple(_confidence(item) for item in items))


def predicted_points(sample: RewardSample, coordinates: str) -> tuple[Point, ...]:
    """The output's points."""
    if isinstance(sample.output, PointOutput):
        return sample.output.points
    scale = _scale(sample, coordinates)
    return tuple(_point(_point_of(item), scale) for item in written_items(sample))


def predicted_poses(sample: RewardSample, coordinates: str) -> tuple[tuple[Point, ...], ...]:
    """Lists of keypoints. A point output is one pose: its points, in the order they were decided."""
    if isinstance(sample.output, PointOutput):
        return (sample.output.points,) if sample.output.points else ()
    scale = _scale(sample, coordinates)
    poses = [_list(item.get("keypoints"), "keypoints") for item in written_items(sample)]
    return tuple(tuple(_point(place, scale) for place in pose) for pose in poses)


def predicted_masks(sample: RewardSample, coordinates: str) -> tuple[Mask, ...]:
    """Masks of a text answer: SVG path data alone, or JSON items with run lengths, polygons or paths."""
    text = answer_text(sample).strip()
    scale = _scale(sample, coordinates)
    masks = [_path(text, scale)] if text[:1] in ("M", "m") else [_mask(i, scale) for i in written_items(sample)]
    for mask in masks:
        _checked(mask)
    return tuple(masks)


def written_items(sample: RewardSample) -> list[Item]:
    """The items of a text answer as JSON objects; a bare list of coordinates becomes `{"": [...]}`."""
    value = answer_json(sample)
    if value is None:
        return []
    if isinstance(value, dict):
        whole = cast("Item", value)
        inner = [key for key in LIST_KEYS if isinstance(whole.get(key), list)]
        value = whole[inner[0]] if len(inner) == 1 else [whole]
    values = _list(cast("object", value), "the answer")
    if values and is_number(values[0]):
        values = [values]
    if len(values) > MAX_ITEMS:
        raise Unreadable(f"{len(values)} items; at most {MAX_ITEMS} are read")
    return [cast("Item", item) if isinstance(item, dict) else {"": item} for item in values]


def _scale(sample: RewardSample, coordinates: str) -> tuple[float, float]:
    match coordinates:
        case "unit":
            return 1.0, 1.0
        case "thousand":
            return 1e-3, 1e-3
        case _:
            size = sample.ground_truth.image_size
            if size is None:
                raise InvalidField.of("ground_truth.image_size", None, "the image's size, as coordinates are in pixels")
            return 1.0 / size.width, 1.0 / size.height


def _first(item: Item, keys: Sequence[str]) -> object:
    return next((item[key] for key in (*keys, "") if key in item), None)


def _category(item: Item) -> str:
    value = _first({key: item[key] for key in CATEGORY_KEYS if key in item}, CATEGORY_KEYS)
    return value if isinstance(value, str) else ""


def _confidence(item: Item) -> float:
    value = next((item[key] for key in CONFIDENCE_KEYS if key in item), 1.0)
    if not (is_number(value) and 0.0 <= value <= 1.0):
        raise Unreadable(f"confidence {str(value)[:40]!r}; a number from 0 to 1 is read")
    return float(value)


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise Unreadable(f"{what} is not a list")
    return cast("list[object]", value)


def _numbers(value: object, count: int) -> list[float]:
    numbers = cast("list[object]", value) if isinstance(value, list) else []
    found = [float(number) for number in numbers if is_number(number)]
    if len(numbers) != count or len(found) != count:
        raise Unreadable(f"an item without {count} numbers")
    return found


def _point_of(item: Item) -> object:
    return [item["x"], item["y"]] if "x" in item and "y" in item else _first(item, POINT_KEYS)


def _point(value: object, scale: tuple[float, float]) -> Point:
    x, y = _numbers(value, 2)
    return Point(x * scale[0], y * scale[1])


def _mask(item: Item, scale: tuple[float, float]) -> Mask:
    if "counts" in item:
        return _rle(item)
    value = _first(item, MASK_KEYS)
    if isinstance(value, dict):
        return _rle(cast("Item", value))
    if isinstance(value, str):
        return _path(value.strip(), scale)
    rings = _list(value, "a mask")
    if rings and not isinstance(rings[0], list):
        rings = [rings]
    if (
        rings
        and isinstance(rings[0], list)
        and len(first := cast("list[object]", rings[0])) == 2
        and is_number(first[0])
    ):
        rings = [rings]
    return PolygonMask(tuple(_ring(ring, scale) for ring in rings))


def _ring(value: object, scale: tuple[float, float]) -> tuple[Point, ...]:
    """Points, or COCO's flat list of numbers."""
    corners = _list(value, "a ring")
    if corners and is_number(corners[0]):
        corners = [list(pair) for pair in zip(corners[::2], corners[1::2], strict=len(corners) % 2 == 0)]
    points = [_point(corner, scale) for corner in corners]
    return tuple(Point(min(1.0, max(0.0, point.x)), min(1.0, max(0.0, point.y))) for point in points)


def _rle(item: Item) -> RleMask:
    height, width = (int(side) for side in _numbers(item.get("size"), 2))
    counts = item.get("counts")
    try:
        if isinstance(counts, str):
            return RleMask.from_coco(height, width, counts)
    except ValueError as error:
        raise Unreadable(str(error)) from error
    return RleMask(height, width, tuple(int(count) for count in _numbers(counts, len(_list(counts, "counts")))))


def _path(text: str, scale: tuple[float, float]) -> SvgMask:
    if scale == (1.0, 1.0):
        return SvgMask(text)
    return SvgMask(_scaled_path(text, scale))


def _scaled_path(text: str, scale: tuple[float, float]) -> str:
    import svgelements  # only for paths that are not in 0..1

    if len(text) > MAX_PATH_CHARACTERS:
        raise Unreadable(f"a path of {len(text)} characters; at most {MAX_PATH_CHARACTERS} are read")
    try:
        return (svgelements.Path(text) * svgelements.Matrix.scale(*scale)).d()
    except (ValueError, ArithmeticError, IndexError, TypeError, AttributeError) as error:
        raise Unreadable("not the data of an SVG path") from error


def _checked(mask: Mask) -> None:
    try:
        mask.validate("mask")
    except InvalidField as error:
        raise Unreadable(error.message) from error
