"""report.json, report.html (one file, opens offline), the curves and the pictures."""

import base64
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jinja2

from examples.demo.curves import draw_curves
from examples.demo.pictures import Pair, draw_pair, pick, write_sheet
from examples.demo.plan import Plan
from examples.demo.scores import Comparison, Served, compare, job_figures
from examples.demo.training import Trained

TEMPLATE = Path(__file__).parent / "report.html.j2"


@dataclass(frozen=True, slots=True)
class SceneResult:
    """One scene of the demo: its runs (the first is the one that is served), and the control where there is one."""

    plan: Plan
    runs: tuple[Trained, ...]
    control: Trained | None
    served: Served


def report_of(digits: SceneResult, preference: SceneResult, seconds: float) -> dict[str, object]:
    """The figures of `report.json`; the first level is the main scene's first run."""
    assert digits.control is not None
    return {
        **_main_figures(digits),
        "seeds": [_seed_figures(run, digits.plan) for run in digits.runs],
        "control": {**_seed_figures(digits.control, digits.plan), "what": "the same job with its rewards shuffled"},
        "preference": {
            "title": preference.plan.title,
            "prompt": f"{preference.plan.skill} {preference.plan.asked!r}",
            **_main_figures(preference),
        },
        "task": {
            "title": digits.plan.title,
            "prompt": f"{digits.plan.skill} {digits.plan.asked!r}",
            "reward": [asdict(component) for component in digits.plan.reward.components],
            "train_images": digits.plan.train_scenes,
            "held_out_images": len(digits.runs[0].before),
            "groups_per_step": digits.plan.groups,
            "rollouts_per_group": digits.plan.rollouts,
            "learning_rate": digits.plan.learning_rate,
            "temperature": digits.plan.temperature,
            "lora": "text side, rank 8",
        },
        "demo_seconds": round(seconds, 1),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("moontune", "torch", "peft")},
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _main_figures(scene: SceneResult) -> dict[str, object]:
    first = scene.runs[0]
    primary = compare(first, scene.plan.metrics[0])
    figures: dict[str, object] = {"metric": primary.metric, "base_f1": primary.base, "final_f1": primary.final}
    for name in scene.plan.metrics[1:]:
        other = compare(first, name)
        suffix = name.removeprefix("f1_iou").rjust(3, "0")
        figures |= {f"base_f1_{suffix}": other.base, f"final_f1_{suffix}": other.final}
    if scene.served.base_known_words is not None:
        figures["base_f1_known_words"] = scene.served.base_known_words
        figures["known_words"] = scene.plan.known_words
    figures["difference_ci95"] = [primary.difference.low, primary.difference.high]
    figures |= job_figures(first)
    figures["adapter"] = scene.served.model
    figures["adapter_digest"] = scene.served.adapter_digest
    figures["served_equals_trained"] = scene.served.equals_trained
    figures["served_differs_from_base"] = scene.served.differs_from_base
    figures["served_equal_images"] = f"{scene.served.equal_images} of {scene.served.images}"
    figures["served_different_images"] = f"{scene.served.different_images} of {scene.served.images}"
    return figures


def _seed_figures(run: Trained, plan: Plan) -> dict[str, object]:
    comparisons: list[Comparison] = [compare(run, name) for name in plan.metrics]
    return {
        "seed": run.job.config.seed,
        **{f"{side}_{c.metric}": getattr(c, side) for c in comparisons for side in ("base", "final")},
        "difference": comparisons[0].difference.estimate,
        "difference_ci95": [comparisons[0].difference.low, comparisons[0].difference.high],
        "model": run.job.model,
        **job_figures(run),
    }


def write_report(out: Path, report: dict[str, object], scenes: Sequence[SceneResult]) -> None:
    """Write everything below `out`."""
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    shown: list[dict[str, object]] = []
    for scene in scenes:
        name, metric = scene.plan.name, scene.plan.metrics[0]
        curve = out / ("reward_curve.png" if scene is scenes[0] else f"reward_curve_{name}.png")
        draw_curves(curve, scene.runs, scene.control, metric)
        picked = pick(scene.runs[0], metric)
        for kind, pairs in picked.items():
            write_sheet(out / f"{name}_{kind}.png", pairs)
        pictures = {kind: [_embedded(pair) for pair in pairs] for kind, pairs in picked.items()}
        shown.append({"title": scene.plan.title, "metric": metric, "curve": _png(curve), "pictures": pictures})
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text())
    page = template.render(report=report, scenes=shown, report_json=json.dumps(report, indent=2))
    (out / "report.html").write_text(page, encoding="utf-8")


def _png(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _embedded(pair: Pair) -> dict[str, object]:
    buffer = io.BytesIO()
    draw_pair(pair).save(buffer, "JPEG", quality=80)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"data": data, "before": pair.score_before, "after": pair.score_after, "name": pair.before.image.name}
