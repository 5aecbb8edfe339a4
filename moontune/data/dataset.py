"""An imported data set: one validated file on disk, read sample by sample.

An import reads a COCO file or a moontune JSONL once and writes `<name>.jsonl`: a header line, then one line a sample.
Memory holds 8 bytes a sample (where its line starts), whatever the set's size.
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from moontune.data.coco import read_coco
from moontune.data.jsonl import read_jsonl
from moontune.data.labels import ground_truth, ground_truth_record
from moontune.data.sample import Sample
from moontune.errors import DatasetNotFound, InvalidField
from moontune.values.job import DatasetSource
from moontune.values.skill import Skill

FORMAT = 1


class Dataset:
    """The samples of an imported file, by index."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._starts = array("q")
        with file.open("rb") as lines:
            header = json.loads(lines.readline())
            if header.get("moontune_dataset") != FORMAT:
                raise InvalidField.of("file", str(file), f"an imported data set of format {FORMAT}")
            start = lines.tell()
            for line in lines:
                self._starts.append(start)
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Sample:
        with self._file.open("rb") as lines:
            lines.seek(self._starts[index])
            return _from_line(lines.readline())

    def __iter__(self) -> Iterator[Sample]:
        with self._file.open("rb") as lines:
            lines.readline()
            for line in lines:
                yield _from_line(line)


def import_dataset(source: DatasetSource, skill: Skill, target: Path) -> Dataset:
    """Read and validate `source`, write it to `target` (its name appears only when whole), open it.

    Raises DatasetNotFound for a path that is not there and InvalidField, listing every fault, for a bad file.
    """
    file = _find(source.path)
    samples = read_coco(file, source, skill) if file.suffix == ".json" else read_jsonl(file, source, skill)
    partial = target.with_suffix(".partial")
    try:
        _write(partial, samples)
    except InvalidField:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(target)
    return Dataset(target)


def check_disjoint(train: Dataset, held_out: Dataset) -> None:
    """Raise InvalidField if an image (by its bytes) lies in both: held-out scores would be worth nothing."""
    trained = {sample.sha256: sample.image.name for sample in train}
    both = sorted({f"{trained[s.sha256]} = {s.image.name}" for s in held_out if s.sha256 in trained})
    if both:
        shown = ", ".join(both[:5]) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
        raise InvalidField.of("held_out", shown, "no image that is also in train")


def _find(path: str) -> Path:
    given = Path(path).expanduser()
    if given.is_dir():
        files = sorted([*given.glob("*.json"), *given.glob("*.jsonl")])
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise DatasetNotFound(f"the folder {given} must hold exactly one .json or .jsonl file; it has {names}")
        return files[0]
    if not given.is_file():
        raise DatasetNotFound(f"no data set at {given}: give a COCO .json, a moontune .jsonl, or a folder with one")
    if given.suffix not in (".json", ".jsonl"):
        raise InvalidField.of("path", path, "a COCO .json or a moontune .jsonl")
    return given


def _write(file: Path, samples: Iterable[Sample]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.write(json.dumps({"moontune_dataset": FORMAT}) + "\n")
        for sample in samples:
            lines.write(_to_line(sample))


def _to_line(sample: Sample) -> str:
    record = {
        "image": str(sample.image),
        "sha256": sample.sha256,
        "skill": str(sample.skill),
        "question": sample.question,
        "object": sample.object,
        "reasoning": sample.reasoning,
        **ground_truth_record(sample.ground_truth),
    }
    return json.dumps(record) + "\n"


def _from_line(line: bytes) -> Sample:
    record = json.loads(line)
    return Sample(
        image=Path(record["image"]),
        sha256=record["sha256"],
        skill=Skill(record["skill"]),
        ground_truth=ground_truth(record),
        question=record["question"],
        object=record["object"],
        reasoning=record["reasoning"],
    )
