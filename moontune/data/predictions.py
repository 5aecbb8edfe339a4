"""Answers to a data set, one a line, with the policy that gave them: what evaluations store and reports read."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moontune.data.labels import ground_truth, ground_truth_record
from moontune.data.sample import Sample
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer.

    image: the file; sha256: of its bytes. model: the model string; adapter_digest: of the weights that answered.
    """

    image: Path
    sha256: str
    skill: Skill
    asked: str
    output: Output
    ground_truth: GroundTruth
    model: str
    adapter_digest: str


def prediction_of(sample: Sample, output: Output, model: str, adapter_digest: str) -> Prediction:
    """The answer to a sample."""
    asked = sample.question if sample.skill is Skill.QUERY else sample.object
    return Prediction(
        sample.image, sample.sha256, sample.skill, asked, output, sample.ground_truth, model, adapter_digest
    )


def write_predictions(file: Path, predictions: Iterable[Prediction]) -> None:
    """Write them all; the file's name appears only when it is whole."""
    partial = file.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as lines:
        for prediction in predictions:
            record = {
                "image": str(prediction.image),
                "sha256": prediction.sha256,
                "skill": str(prediction.skill),
                "asked": prediction.asked,
                "output": output_record(prediction.output),
                "ground_truth": ground_truth_record(prediction.ground_truth),
                "model": prediction.model,
                "adapter_digest": prediction.adapter_digest,
            }
            lines.write(json.dumps(record) + "\n")
    partial.replace(file)


def read_predictions(file: Path) -> list[Prediction]:
    """Read `write_predictions` back."""
    with file.open(encoding="utf-8") as lines:
        return [_read(json.loads(line)) for line in lines]


def output_record(output: Output) -> dict[str, object]:
    """An answer as plain lists: boxes [x_min, y_min, x_max, y_max] or points [x, y] in 0..1, or the text."""
    match output:
        case DetectOutput():
            return {"boxes": [[box.x_min, box.y_min, box.x_max, box.y_max] for box in output.objects]}
        case PointOutput():
            return {"points": [[point.x, point.y] for point in output.points]}
        case QueryOutput():
            return {"answer": output.answer}
        case _:
            return {"caption": output.caption}


def output_from_record(skill: Skill, record: dict[str, object]) -> Output:
    """Read `output_record` back; a query's reasoning is not kept."""
    if skill is Skill.DETECT:
        return DetectOutput(tuple(Box(*row) for row in cast("list[list[float]]", record["boxes"])))
    if skill is Skill.POINT:
        return PointOutput(tuple(Point(*row) for row in cast("list[list[float]]", record["points"])))
    return QueryOutput(str(record["answer"]))


def _read(record: dict[str, object]) -> Prediction:
    skill = Skill(str(record["skill"]))
    return Prediction(
        image=Path(str(record["image"])),
        sha256=str(record["sha256"]),
        skill=skill,
        asked=str(record["asked"]),
        output=output_from_record(skill, cast("dict[str, object]", record["output"])),
        ground_truth=ground_truth(cast("dict[str, object]", record["ground_truth"])),
        model=str(record["model"]),
        adapter_digest=str(record["adapter_digest"]),
    )
