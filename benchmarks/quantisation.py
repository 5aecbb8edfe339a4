"""What merging and int4 cost a finetune's score: `python -m benchmarks.quantisation [--demo out/demo]`.

Takes the best finetune of each task that a run of the demo left behind, exports it merged and in int4 (groups of 128,
as docs/adapters.md), loads both as bases and lets them answer the demo's held-out pictures, greedily, one by one. The
scores are the demo's metrics; differences are paired over pictures with a 95 % bootstrap interval. The adapter's own
answers run through the same loop. Writes out/benchmarks/quantisation.json.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from moontune.data.predictions import Prediction, read_predictions
from moontune.evaluation import Tally, default_metric, evaluate, paired_difference
from moontune.imaging.decode import decode_image
from moontune.model.adapter_forms import export_adapter
from moontune.model.base_model import BaseModel, load_base, share_base
from moontune.model.lora import Adapters
from moontune.model.moondream_family import MoondreamFamily
from moontune.model.peft_folder import read_adapter
from moontune.model.single import generate
from moontune.values.adapter import ExportKind
from moontune.values.image import Image
from moontune.values.model_ref import ModelRef
from moontune.values.output import Output
from moontune.values.request import SkillRequest
from moontune.values.sampling import inference_defaults
from moontune.values.skill import Skill

OUT = Path("out/benchmarks/quantisation.json")


@dataclass(frozen=True, slots=True)
class Row:
    """One form of one finetune. bytes: of its weights file; difference: to the unmerged adapter, with its interval."""

    task: str
    model: str
    form: str
    metric: str
    pictures: int
    score: float
    weights_bytes: int
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0


def best(demo: Path) -> dict[str, list[Prediction]]:
    """The last answers of the best finished job of each task (skill and what is asked for), by the task's metric."""
    found: dict[str, list[Prediction]] = {}
    for job in sorted((demo / "services" / "jobs").iterdir()):
        files = sorted((job / "predictions").glob("step-*.jsonl"))
        predictions = read_predictions(files[-1]) if files else []
        if predictions and _checkpoint(demo, predictions[0]).is_dir():
            task = f"{predictions[0].skill} {predictions[0].asked}"
            if task not in found or _score(predictions) > _score(found[task]):
                found[task] = predictions
    return found


def _score(predictions: Sequence[Prediction]) -> float:
    truths = [prediction.ground_truth for prediction in predictions]
    metric = default_metric(predictions[0].skill, truths[0])
    return evaluate(metric, [prediction.output for prediction in predictions], truths)[0]


def _checkpoint(demo: Path, prediction: Prediction) -> Path:
    ref = ModelRef.parse(prediction.model)
    return demo / "services" / "checkpoints" / str(ref.finetune_id) / f"{ref.step or 0:08d}"


@torch.no_grad()
def answers(family: MoondreamFamily, predictions: Iterable[Prediction]) -> list[Output]:
    """Greedy answers to the same questions."""
    outputs: list[Output] = []
    for prediction in predictions:
        field = "question" if prediction.skill is Skill.QUERY else "object"
        image = Image(prediction.sha256)
        settings = inference_defaults(prediction.skill)
        request = SkillRequest(prediction.skill, image, settings=settings, **{field: prediction.asked})
        tokens = family.encode_images([family.crop(decode_image(prediction.image.read_bytes()))])
        made = generate(family, request, tokens[0])
        outputs.append(family.read_output(prediction.skill, made.decisions))
    return outputs


def rows_of(task: str, predictions: Sequence[Prediction], demo: Path, base: BaseModel) -> list[Row]:
    """The adapter, merged and int4, on the same pictures."""
    truths = [prediction.ground_truth for prediction in predictions]
    metric = default_metric(predictions[0].skill, truths[0])
    folder = _checkpoint(demo, predictions[0])
    adapter = read_adapter(folder, base.config)
    acting = Adapters(share_base(base).module)
    acting.attach_tensors("demo", adapter)
    acting.activate("demo")
    forms = [("base", MoondreamFamily(base.module, base.tokenizer), base.path / "model.safetensors")]
    forms.append(("adapter", MoondreamFamily(acting._module, base.tokenizer), folder / "adapter_model.safetensors"))
    with tempfile.TemporaryDirectory() as place:
        for kind in (ExportKind.MERGED, ExportKind.INT4):
            into = Path(place) / kind
            export_adapter(kind, adapter, base, into)
            loaded = load_base(str(into), device="cpu")
            forms.append((str(kind), MoondreamFamily(loaded.module, loaded.tokenizer), into / "model.safetensors"))
        scored: dict[str, tuple[Row, list[Tally]]] = {}
        for form, family, weights in forms:
            score, tallies = evaluate(metric, answers(family, predictions), truths)
            row = Row(task, predictions[0].model, form, metric.name, len(truths), score, weights.stat().st_size)
            scored[form] = row, tallies
    return [_with_difference(row, scored["adapter"][1], tallies) for row, tallies in scored.values()]


def _with_difference(row: Row, adapter: Sequence[Tally], own: Sequence[Tally]) -> Row:
    interval = paired_difference(adapter, own)
    return Row(**{**asdict(row), "difference": interval.estimate, "low": interval.low, "high": interval.high})


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("out/demo"), help="what `python -m examples.demo` left")
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base("moontune-tiny", device="cpu")
    rows = [row for task, found in best(given.demo).items() for row in rows_of(task, found, given.demo, base)]
    table = Table("task", "form", "weights", "metric", "score", "to the adapter", title="moontune-tiny, CPU, fp32")
    for row in rows:
        change = f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
        size = f"{row.weights_bytes / 1e6:.2f} MB"
        table.add_row(row.task, row.form, size, row.metric, f"{row.score:.3f}", change)
    Console().print(table)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
