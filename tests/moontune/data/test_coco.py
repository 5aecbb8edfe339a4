import json
from pathlib import Path

import pytest
from PIL import Image as Pil

from moontune.data.coco import CocoImage, read_coco, write_coco
from moontune.errors import InvalidField
from moontune.values.geometry import Box
from moontune.values.job import DatasetSource
from moontune.values.skill import Skill


def picture(path: Path, width: int = 100, height: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pil.new("RGB", (width, height), (width % 256, height % 256, 7)).save(path)


def document(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": 3, "name": "digit"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10]}],
    }
    return {**base, **changes}


def read(folder: Path, content: object, source: DatasetSource | None = None, skill: Skill = Skill.DETECT):
    file = folder / "set.json"
    file.write_text(json.dumps(content))
    return read_coco(file, source or DatasetSource(str(file), object="digit"), skill)


def test_pixels_become_shares_of_the_image(tmp_path: Path):
    picture(tmp_path / "a.png")
    (sample,) = read(tmp_path, document())
    assert sample.ground_truth.boxes == (Box(0.1, 0.1, 0.3, 0.3),)
    assert sample.object == "digit"
    assert sample.image == tmp_path / "a.png"


def test_written_file_reads_back(tmp_path: Path):
    picture(tmp_path / "images" / "a.png", 200, 100)
    picture(tmp_path / "images" / "b.png", 201, 100)
    boxes = (("red digit", Box(0.1, 0.2, 0.5, 0.4)), ("blue digit", Box(0.5, 0.25, 1.0, 1.0)))
    file = tmp_path / "set.json"
    write_coco(file, [CocoImage("images/a.png", 200, 100, boxes), CocoImage("images/b.png", 201, 100, ())])
    first, second = read_coco(file, DatasetSource(str(file), object="digit"), Skill.DETECT)
    for got, (_, want) in zip(first.ground_truth.boxes or (), boxes, strict=True):
        assert (got.x_min, got.y_min, got.x_max, got.y_max) == pytest.approx(
            (want.x_min, want.y_min, want.x_max, want.y_max), abs=1e-6
        )
    assert second.ground_truth.boxes == ()
    (only, _) = read_coco(file, DatasetSource(str(file), object="digit", category="red digit"), Skill.DETECT)
    assert len(only.ground_truth.boxes or ()) == 1


def test_one_pixel_over_the_edge_is_clipped(tmp_path: Path):
    picture(tmp_path / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [-0.5, 0, 101, 50.5]}
    (sample,) = read(tmp_path, document(annotations=[annotation]))
    assert sample.ground_truth.boxes == (Box(0.0, 0.0, 1.0, 1.0),)


def test_crowds_are_left_out(tmp_path: Path):
    picture(tmp_path / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "iscrowd": 1}
    (sample,) = read(tmp_path, document(annotations=[annotation]))
    assert sample.ground_truth.boxes == ()


def test_every_fault_is_named_at_once(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    content = document(
        images=[
            {"id": 1, "file_name": "a.png", "width": 100, "height": 50},
            {"id": 1, "file_name": "a.png"},
            {"id": 2, "file_name": "gone.png"},
            {"id": 3, "file_name": "text.png"},
            {"id": 4, "file_name": "a.png", "width": 99, "height": 50},
        ],
        annotations=[
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [90, 5, 20, 10]},
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 5, 0, 10]},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [1, 1, 2, 2]},
            {"id": 4, "image_id": 1, "category_id": 8, "bbox": [1, 1, 2, 2]},
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 1, 2]},
            {"id": 6, "image_id": 1, "category_id": 3, "bbox": [float("nan"), 1, 2, 2]},
        ],
    )
    with pytest.raises(InvalidField) as caught:
        read(tmp_path, content)
    fields = [violation.field for violation in caught.value.violations]
    assert fields == [
        "images[1].id",
        "images[2].file_name",
        "images[3].file_name",
        "images[4]",
        "annotations[0].bbox",
        "annotations[1].id",
        "annotations[1].bbox",
        "annotations[2].image_id",
        "annotations[3].category_id",
        "annotations[4].bbox",
        "annotations[5].bbox",
    ]
    assert "11 problems" in caught.value.message


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "C:\\a.png", "x/../../a.png", ""])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, name: str):
    picture(tmp_path / "a.png")
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(InvalidField, match=r"relative|outside"):
        read(inner, document(images=[{"id": 1, "file_name": name}], annotations=[]))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    picture(tmp_path / "a.png")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(InvalidField, match="outside"):
        read(inner, document())


@pytest.mark.parametrize("content", [[], {"images": 3}, {"images": [4], "categories": [], "annotations": []}])
def test_other_json_is_refused_in_words(tmp_path: Path, content: object):
    with pytest.raises(InvalidField):
        read(tmp_path, content)


def test_an_unknown_category_names_those_there_are(tmp_path: Path):
    picture(tmp_path / "a.png")
    with pytest.raises(InvalidField, match=r"'red'; there are \['digit'\]"):
        read(tmp_path, document(), DatasetSource("x", object="digit", category="red"))


def test_query_needs_jsonl(tmp_path: Path):
    with pytest.raises(InvalidField, match="JSONL"):
        read(tmp_path, document(), skill=Skill.QUERY)
