"""`python -m examples.demo`: finetune the tiny base by reinforcement on real images, serve it, report.

Everything goes through the real services: jobs, rollout, reward, trainer, inference, gateway.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.demo.dataset import HELD_OUT_SEED, write_split
from examples.demo.plan import DIGITS, HELD_OUT_SCENES, PREFERENCE, Plan
from examples.demo.report import SceneResult, report_of, write_report
from examples.demo.scores import Comparison, Served, compare, score_of, served_scores
from examples.demo.served import answers
from examples.demo.stack import Stack, running
from examples.demo.training import Trained, train_all


def main() -> None:
    """Run the demo."""
    options = _options()
    console = Console(highlight=False)
    started = time.monotonic()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    _write_data(out / "data", options.seeds, console)
    configs = [DIGITS.job(out / "data", seed) for seed in options.seeds]
    configs.append(DIGITS.job(out / "data", options.seeds[0], shuffle_rewards=True))
    configs.append(PREFERENCE.job(out / "data", options.seeds[0]))
    services = out / "services"
    console.print("starting the services")
    with running(options.base, services) as stack:
        console.print(f"training through the jobs service at {stack.jobs}; the gateway is {stack.gateway}")
        *runs, control, preference = train_all(stack, configs, console)
    console.print("everything is stopped; starting again with the trainer left down, to serve what was saved")
    with running(options.base, services, without=("trainer", "reward", "jobs")) as stack:
        scenes = [
            SceneResult(DIGITS, tuple(runs), control, _serve(stack, DIGITS, runs[0])),
            SceneResult(PREFERENCE, (preference,), None, _serve(stack, PREFERENCE, preference)),
        ]
    report = report_of(*scenes, seconds=time.monotonic() - started)
    write_report(out, report, scenes)
    _print(console, report, scenes, out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=main.__doc__)
    parser.add_argument("--seed", type=int, help="one seed (of training scenes and sampling) in place of all five")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="one run each; the first is served"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of everything that is written")
    parser.add_argument("--base", default="moontune-tiny", help="name or folder of the base model")
    options = parser.parse_args()
    options.seeds = options.seeds if options.seed is None else [options.seed]
    return options


def _write_data(folder: Path, seeds: list[int], console: Console) -> None:
    started = time.monotonic()
    for plan, plan_seeds in ((DIGITS, seeds), (PREFERENCE, seeds[:1])):
        _write_plan(folder, plan, plan_seeds)
    console.print(f"scenes written to {folder} in {time.monotonic() - started:.0f} s")


def _write_plan(folder: Path, plan: Plan, seeds: list[int]) -> None:
    """The held-out set is one for all seeds; each seed has training scenes of its own."""
    write_split(folder / f"{plan.name}-held-out", HELD_OUT_SCENES, HELD_OUT_SEED, held_out=True, style=plan.style)
    for seed in seeds:
        target = folder / f"{plan.name}-train-{seed}"
        write_split(target, plan.train_scenes, seed, held_out=False, style=plan.style)


def _serve(stack: Stack, plan: Plan, trained: Trained) -> Served:
    """Ask the gateway for the finetune's and the base's answers to the held-out images."""
    base = trained.job.model.partition("/")[0]
    finetuned = answers(stack, trained.job.model, trained.after)
    served = served_scores(trained, finetuned, [answer.output for answer in answers(stack, base, trained.after)])
    if not plan.known_words:
        return served
    known = answers(stack, base, trained.after, plan.known_words)
    return replace(served, base_known_words=score_of(plan.metrics[0], known, trained.after))


def _print(console: Console, report: dict[str, object], scenes: list[SceneResult], out: Path) -> None:
    table = Table("run", "metric", "base", "final", "difference", "95 % interval", box=None, pad_edge=False)
    for scene in scenes:
        for run in (*scene.runs, *([scene.control] if scene.control else [])):
            _row(table, run.job.config.name, compare(run, scene.plan.metrics[0]))
    console.print(table)
    for name in ("adapter", "served_equals_trained", "served_differs_from_base", "demo_seconds"):
        console.print(f"{name}: {report[name]}")
    console.print(f"report: {out / 'report.html'}")


def _row(table: Table, name: str, result: Comparison) -> None:
    change = result.difference
    table.add_row(
        name,
        result.metric,
        f"{result.base:.3f}",
        f"{result.final:.3f}",
        f"{change.estimate:+.3f}",
        f"{change.low:+.3f} to {change.high:+.3f}",
    )


if __name__ == "__main__":
    main()
