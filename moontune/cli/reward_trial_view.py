"""A dry run's report for people, and as plain types."""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moontune.cli.reward_trial import Trial
from moontune.data.predictions import output_record

MAX_SHOWN = 60


def show_report(trial: Trial, console: Console) -> None:
    """Figures, probes, examples, warnings."""
    report = trial.report
    figures = Table(box=None, pad_edge=False, show_header=False)
    rows = {
        "samples": str(report.samples),
        "read as an answer": f"{report.parse_rate:.0%}",
        "grades that failed": f"{report.failed_rate:.0%}",
        "mean, std": "none" if report.mean is None else f"{report.mean:.3f}, {report.std or 0.0:.3f}",
        "dead groups": f"{report.dead_group_share:.0%} of {len(trial.asked.groups)}",
        "time a grade": f"{report.seconds_per_grade * 1e6:.0f} us",
    }
    for name, value in rows.items():
        figures.add_row(name, value)
    console.print(figures)
    probes = Table("made-up answers", "mean", box=None, pad_edge=False)
    for probe in report.probes:
        probes.add_row(escape(probe.description), "no score" if probe.mean is None else f"{probe.mean:.3f}")
    console.print(probes)
    console.print(_examples(trial))
    for warning in report.warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    if not report.warnings:
        console.print("[green]nothing looks flat, broken or easy to game[/]")


def _examples(trial: Trial) -> Table:
    table = Table("image", "asked", "answer", "reward", "components", box=None, pad_edge=False)
    for example in trial.report.examples:
        group, result = trial.asked.groups[example.group_index], example.result
        parts = ", ".join(f"{name} {value:.3g}" for name, value in result.components.items())
        table.add_row(
            escape(trial.asked.pictures[example.group_index].name),
            escape((group.request.question or group.request.object)[:MAX_SHOWN]),
            escape(_shown(group.outputs[example.output_index])),
            "no score" if result.reward is None else f"{result.reward:.3f}",
            escape(parts + (f" ({result.detail[:MAX_SHOWN]})" if result.detail else "")),
        )
    return table


def _shown(output: object) -> str:
    text = json.dumps(output_record(output))  # type: ignore[arg-type]
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def report_record(trial: Trial) -> dict[str, object]:
    """The report in plain types, its examples with image, question, answer and labels."""
    report = trial.report
    return {
        "samples": report.samples,
        "parse_rate": report.parse_rate,
        "failed_rate": report.failed_rate,
        "mean": report.mean,
        "std": report.std,
        "dead_group_share": report.dead_group_share,
        "seconds_per_grade": report.seconds_per_grade,
        "warnings": list(report.warnings),
        "probes": [{"name": p.name, "description": p.description, "mean": p.mean} for p in report.probes],
        "examples": [
            {
                "image": str(trial.asked.pictures[example.group_index]),
                "output": output_record(trial.asked.groups[example.group_index].outputs[example.output_index]),
                "reward": example.result.reward,
                "components": dict(example.result.components),
                "status": str(example.result.status),
                "detail": example.result.detail,
            }
            for example in report.examples
        ],
    }
