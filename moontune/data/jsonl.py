"""The moontune JSONL: one example a line.

    {"image": "images/1.png", "skill": "detect", "object": "digit", "boxes": [[x_min, y_min, x_max, y_max], ...]}
    {"image": "images/2.png", "skill": "point", "object": "digit", "points": [[x, y], ...]}     (or "boxes")
    {"image": "images/3.png", "skill": "query", "question": "How many?", "answers": ["2", "two"], "reasoning": true}
    {"image": "images/4.png", "skill": "point", "object": "digit", "masks": [{"polygon": [[[x, y], ...], ...]}]}

`labels.py` has every kind of label. Coordinates are 0..1, x to the right, y down. `image` is relative to the file's
folder. `skill` and `object` may be left out where the job's config gives them. Unknown keys are faults.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from moontune.data import image_file
from moontune.data.labels import LABEL_KEYS, Record, ground_truth
from moontune.data.problems import Problems
from moontune.data.sample import Sample
from moontune.errors import InvalidField
from moontune.values.job import DatasetSource
from moontune.values.skill import Skill

KEYS = ("image", "skill", "object", "question", "reasoning", *LABEL_KEYS)


def read_jsonl(file: Path, source: DatasetSource, skill: Skill) -> Iterator[Sample]:
    """The samples of a moontune JSONL, one at a time; faults are raised, all at once, at the end of the file."""
    problems = Problems(str(file))
    count = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            count += 1
            try:
                yield _sample(file.parent, line, source, skill)
            except InvalidField as error:
                for violation in error.violations:
                    problems.add(f"line {number}", violation.description)
            except ValueError as error:
                problems.add(f"line {number}", str(error))
    if not count:
        problems.add("file", "empty; a data set needs at least one line")
    problems.raise_if_any()


def _sample(folder: Path, line: bytes, source: DatasetSource, skill: Skill) -> Sample:
    record = _record(line)
    given_skill = record.get("skill", skill)
    if given_skill != skill:
        raise ValueError(f"skill is {given_skill!r}; allowed: {str(skill)!r}, the job's")
    picture = image_file.inspect(image_file.locate(folder, _text(record, "image")))
    reasoning = record.get("reasoning", False)
    if not isinstance(reasoning, bool):
        raise ValueError(f"reasoning is {reasoning!r}; allowed: true or false")
    sample = Sample(
        image=picture.path,
        sha256=picture.sha256,
        skill=skill,
        ground_truth=ground_truth(record),
        question=_text(record, "question"),
        object=_text(record, "object") or source.object,
        reasoning=reasoning,
    )
    sample.ground_truth.validate(skill, "ground truth")
    asked = sample.question if skill is Skill.QUERY else sample.object
    if not asked.strip():
        raise ValueError(f"{'question' if skill is Skill.QUERY else 'object'} is absent; {skill} needs one")
    return sample


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # the second is for brackets within brackets without end
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a line is an object, not a {type(record).__name__}")
    record = cast("Record", record)
    if unknown := sorted(set(record) - set(KEYS)):
        raise ValueError(f"unknown {', '.join(unknown)}; allowed: {', '.join(KEYS)}")
    return record


def _text(record: Record, key: str) -> str:
    value = record.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}; allowed: text")
    return value
