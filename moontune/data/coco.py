"""COCO detection files in and out: pixel `[x, y, width, height]` there, 0..1 corners here."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moontune.data import image_file
from moontune.data.image_file import ImageFile
from moontune.data.problems import Problems
from moontune.data.sample import Sample
from moontune.errors import InvalidField
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.job import DatasetSource
from moontune.values.skill import Skill

EDGE_TOLERANCE_PX = 1.0
"""A box may stand out of its image by this much (labelling tools round) and is clipped; more is a fault."""

Record = Mapping[str, object]


def read_coco(file: Path, source: DatasetSource, skill: Skill) -> list[Sample]:
    """Every image of a COCO file as one sample, in the file's order.

    An image without boxes of the wanted category is a negative: its ground truth is empty. Crowd annotations are
    left out. All faults of the file are raised at once, as one InvalidField.
    """
    if skill not in (Skill.DETECT, Skill.POINT):
        raise InvalidField.of("skill", str(skill), "detect or point with a COCO file; query needs a moontune JSONL")
    if not source.object.strip():
        raise InvalidField.of("object", source.object, "what point and detect shall look for, as text")
    problems = Problems(str(file))
    document = _load(file, problems)
    categories = _categories(document, problems)
    if source.category and source.category not in categories.values():
        problems.add("categories", f"no category is named {source.category!r}; there are {sorted(categories.values())}")
    pictures = _pictures(file.parent, document, problems)
    boxes: dict[int, list[Box]] = {image_id: [] for image_id in pictures}
    for image_id, category, box in _boxes(document, pictures, categories, problems):
        if source.category in ("", category):
            boxes[image_id].append(box)
    problems.raise_if_any()
    return [
        Sample(
            picture.path,
            picture.sha256,
            skill,
            GroundTruth(boxes=tuple(boxes[image_id])),
            object=source.object,
        )
        for image_id, picture in pictures.items()
    ]


def _load(file: Path, problems: Problems) -> Record:
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # the second is for brackets within brackets without end
        problems.add("file", f"not JSON: {error}")
        problems.raise_if_any()
        raise AssertionError from error
    if not isinstance(document, dict):
        problems.add("file", f"the top of a COCO file is an object; this one is a {type(document).__name__}")
        problems.raise_if_any()
    return cast("Record", document)


def _records(document: Record, key: str, problems: Problems) -> Iterator[tuple[str, Record]]:
    """(where, entry) of each object of a list; a list that is absent or entries of another kind are faults."""
    entries = document.get(key)
    if not isinstance(entries, list):
        problems.add(key, "absent or not a list")
        return
    for index, entry in enumerate(cast("list[object]", entries)):
        if isinstance(entry, dict):
            yield f"{key}[{index}]", cast("Record", entry)
        else:
            problems.add(f"{key}[{index}]", f"is a {type(entry).__name__}; allowed: an object")


def _integer(entry: Record, key: str, where: str, problems: Problems) -> int | None:
    value = entry.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    problems.add(f"{where}.{key}", f"is {value!r}; allowed: an integer")
    return None


def _categories(document: Record, problems: Problems) -> dict[int, str]:
    found: dict[int, str] = {}
    for where, entry in _records(document, "categories", problems):
        category_id = _integer(entry, "id", where, problems)
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            problems.add(f"{where}.name", f"is {name!r}; allowed: text")
        elif category_id in found:
            problems.add(f"{where}.id", f"{category_id} is taken by category {found[category_id]!r}")
        elif category_id is not None:
            found[category_id] = name
    return found


def _pictures(folder: Path, document: Record, problems: Problems) -> dict[int, ImageFile]:
    found: dict[int, ImageFile] = {}
    for where, entry in _records(document, "images", problems):
        image_id = _integer(entry, "id", where, problems)
        if image_id in found:
            problems.add(f"{where}.id", f"{image_id} is taken by {found[image_id].path.name!r}")
            continue
        try:
            picture = image_file.inspect(image_file.locate(folder, str(entry.get("file_name") or "")))
        except (ValueError, InvalidField) as error:
            problems.add(f"{where}.file_name", str(error))
            continue
        size = picture.width, picture.height
        if (declared := (entry.get("width", size[0]), entry.get("height", size[1]))) != size:
            problems.add(where, f"width x height is {declared}, but {picture.path.name!r} has {size} pixels")
        elif image_id is not None:
            found[image_id] = picture
    if not found and not problems.count:
        problems.add("images", "empty; a data set needs at least one image")
    return found


def _boxes(
    document: Record, pictures: Mapping[int, ImageFile], categories: Mapping[int, str], problems: Problems
) -> Iterator[tuple[int, str, Box]]:
    """(image id, category name, box in 0..1) of every annotation that passes."""
    seen: set[int] = set()
    for where, entry in _records(document, "annotations", problems):
        if (annotation_id := _integer(entry, "id", where, problems)) in seen:
            problems.add(f"{where}.id", f"{annotation_id} occurs twice")
        elif annotation_id is not None:
            seen.add(annotation_id)
        if entry.get("iscrowd"):
            continue
        image_id = _integer(entry, "image_id", where, problems)
        category_id = _integer(entry, "category_id", where, problems)
        if image_id is None or category_id is None:
            continue
        if image_id not in pictures:
            problems.add(f"{where}.image_id", f"{image_id} is no usable image of this file")
        elif category_id not in categories:
            problems.add(f"{where}.category_id", f"{category_id} is no category of this file")
        elif (box := _box(entry.get("bbox"), pictures[image_id], where, problems)) is not None:
            yield image_id, categories[category_id], box


def _box(given: object, picture: ImageFile, where: str, problems: Problems) -> Box | None:
    """The box in 0..1: x_min = x / image width, x_max = (x + width) / image width, and so for y."""
    numbers = cast("list[object]", given) if isinstance(given, list) else []
    if len(numbers) != 4 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        problems.add(f"{where}.bbox", f"is {given!r}; allowed: [x, y, width, height] in pixels")
        return None
    x, y, width, height = cast("list[float]", numbers)
    inside = (
        width > 0
        and height > 0
        and x >= -EDGE_TOLERANCE_PX
        and y >= -EDGE_TOLERANCE_PX
        and x + width <= picture.width + EDGE_TOLERANCE_PX
        and y + height <= picture.height + EDGE_TOLERANCE_PX
    )
    if not inside:
        allowed = f"a width and height above 0 inside the image's {picture.width} x {picture.height} pixels"
        problems.add(f"{where}.bbox", f"is {given!r}; allowed: {allowed}")
        return None
    box = Box(
        max(0.0, x / picture.width),
        max(0.0, y / picture.height),
        min(1.0, (x + width) / picture.width),
        min(1.0, (y + height) / picture.height),
    )
    if box.area <= 0.0:
        problems.add(f"{where}.bbox", f"is {given!r}; nothing of it lies inside the image")
        return None
    return box


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image to write: its file name, size in pixels, and (category name, box in 0..1) of each object."""

    file_name: str
    width: int
    height: int
    objects: tuple[tuple[str, Box], ...]


def write_coco(file: Path, images: Iterable[CocoImage]) -> None:
    """Write a COCO file; categories are numbered from 1 in the order of their names."""
    listed = list(images)
    names = sorted({name for image in listed for name, _ in image.objects})
    category_ids = {name: index for index, name in enumerate(names, start=1)}
    document: dict[str, list[dict[str, object]]] = {
        "images": [
            {"id": index, "file_name": image.file_name, "width": image.width, "height": image.height}
            for index, image in enumerate(listed, start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
        "annotations": [],
    }
    for image_id, image in enumerate(listed, start=1):
        for name, box in image.objects:
            bbox = [
                box.x_min * image.width,
                box.y_min * image.height,
                box.width * image.width,
                box.height * image.height,
            ]
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[name],
                    "bbox": [round(number, 4) for number in bbox],
                    "area": round(bbox[2] * bbox[3], 4),
                    "iscrowd": 0,
                }
            )
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
