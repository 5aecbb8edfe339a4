import json
from pathlib import Path

import pytest
from PIL import Image as Pil

from moontune.data.dataset import Dataset, check_disjoint, import_dataset
from moontune.errors import DatasetNotFound, InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.job import DatasetSource
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill


def jsonl(folder: Path, *records: dict[str, object], name: str = "set.jsonl") -> DatasetSource:
    file = folder / name
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return DatasetSource(str(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        Pil.new("RGB", (10 + index, 10)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_import_keeps_order_labels_and_bytes(folder: Path):
    source = jsonl(
        folder,
        {"image": "0.png", "object": "digit", "boxes": [[0.1, 0.2, 0.3, 0.4]]},
        {"image": "1.png", "object": "cup", "boxes": []},
    )
    dataset = import_dataset(source, Skill.DETECT, folder / "imported.jsonl")
    assert len(dataset) == 2
    assert [sample.object for sample in dataset] == ["digit", "cup"]
    assert dataset[0].ground_truth == GroundTruth(boxes=(Box(0.1, 0.2, 0.3, 0.4),))
    assert dataset[1].ground_truth == GroundTruth(boxes=())
    request = dataset[1].request(SamplingSettings())
    assert request.image is not None
    assert request.image.data == (folder / "1.png").read_bytes()
    assert request.image.sha256 == dataset[1].sha256
    assert list(Dataset(folder / "imported.jsonl")) == list(dataset)


def test_query_and_point_lines(folder: Path):
    query = jsonl(folder, {"image": "0.png", "question": "How many?", "answers": ["2", "two"], "reasoning": True})
    (sample,) = import_dataset(query, Skill.QUERY, folder / "q.jsonl")
    assert (sample.question, sample.reasoning, sample.ground_truth.answers) == ("How many?", True, ("2", "two"))
    point = jsonl(folder, {"image": "0.png", "object": "cup", "points": [[0.5, 0.25]]})
    (sample,) = import_dataset(point, Skill.POINT, folder / "p.jsonl")
    assert sample.ground_truth.points == (Point(0.5, 0.25),)


def test_all_faults_come_with_their_lines(folder: Path):
    source = jsonl(
        folder,
        {"image": "0.png", "object": "digit", "boxes": [[0.1, 0.2, 0.3, 0.4]]},
        {"image": "0.png", "object": "digit", "boxes": [[0.1, 0.2, 1.3, 0.4]]},
        {"image": "0.png", "object": "digit", "boxes": [[0.5, 0.2, 0.3, 0.4]]},
        {"image": "../0.png", "object": "digit", "boxes": []},
        {"image": "0.png", "object": "digit", "boxes": [], "colour": "red"},
        {"image": "0.png", "object": "digit"},
        {"image": "0.png", "boxes": []},
        {"image": "0.png", "object": "digit", "boxes": [[1, 2]]},
        {"image": "0.png", "object": "digit", "boxes": [], "skill": "query"},
    )
    with (folder / "set.jsonl").open("a") as file:
        file.write("{not json\n")
    target = folder / "imported.jsonl"
    with pytest.raises(InvalidField) as caught:
        import_dataset(source, Skill.DETECT, target)
    assert [violation.field for violation in caught.value.violations] == [f"line {n}" for n in (*range(2, 10), 11)]
    assert not target.exists()
    assert list(folder.glob("*.partial")) == []


def test_the_same_image_on_both_sides_is_refused(folder: Path):
    line = {"object": "digit", "boxes": []}
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    train = import_dataset(jsonl(folder, {"image": "0.png", **line}), Skill.DETECT, folder / "t.jsonl")
    other = import_dataset(jsonl(folder, {"image": "1.png", **line}), Skill.DETECT, folder / "o.jsonl")
    copy = import_dataset(jsonl(folder, {"image": "copy.png", **line}), Skill.DETECT, folder / "c.jsonl")
    check_disjoint(train, other)
    with pytest.raises(InvalidField, match=r"0\.png = copy\.png"):
        check_disjoint(train, copy)


def test_what_is_not_there(folder: Path):
    with pytest.raises(DatasetNotFound, match="no data set at"):
        import_dataset(DatasetSource(str(folder / "gone.json")), Skill.DETECT, folder / "x.jsonl")
    with pytest.raises(DatasetNotFound, match="exactly one"):
        import_dataset(DatasetSource(str(folder)), Skill.DETECT, folder / "x.jsonl")
    with pytest.raises(InvalidField, match=r"0\.png"):
        import_dataset(DatasetSource(str(folder / "0.png")), Skill.DETECT, folder / "x.jsonl")


def test_an_empty_file_is_refused(folder: Path):
    (folder / "set.jsonl").write_text("\n")
    with pytest.raises(InvalidField, match="empty"):
        import_dataset(DatasetSource(str(folder / "set.jsonl")), Skill.DETECT, folder / "x.jsonl")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"image": "0.png", "object": "a", "boxes": [[0, 0, 1, 1' + "0" * 400 + "]]}", "boxes is"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_numbers_and_nesting_beyond_bounds_are_faults_of_their_line(folder: Path, line: str, told: str):
    (folder / "set.jsonl").write_text(line + "\n")
    with pytest.raises(InvalidField, match=told):
        import_dataset(DatasetSource(str(folder / "set.jsonl")), Skill.DETECT, folder / "imported.jsonl")


def test_a_coco_file_nested_beyond_bounds_is_a_fault(folder: Path):
    (folder / "set.json").write_text("[" * 100_000)
    with pytest.raises(InvalidField, match="not JSON"):
        import_dataset(DatasetSource(str(folder / "set.json"), object="a"), Skill.DETECT, folder / "imported.jsonl")


def test_an_image_that_is_gone_or_changed_since_the_import_is_named(folder: Path):
    source = jsonl(folder, {"image": "0.png", "object": "digit", "boxes": []})
    (sample,) = import_dataset(source, Skill.DETECT, folder / "imported.jsonl")
    (folder / "0.png").write_bytes((folder / "1.png").read_bytes())
    with pytest.raises(InvalidField, match=r"0\.png.*changed"):
        sample.request(SamplingSettings())
    (folder / "0.png").unlink()
    with pytest.raises(InvalidField, match=r"0\.png.*No such file"):
        sample.request(SamplingSettings())
