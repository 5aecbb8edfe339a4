"""The reward curve and the held-out scores of several runs, as one PNG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.demo.training import Trained

SMOOTH = 9
"""Steps that one point of the reward curve averages over: single steps are noisy."""


def draw_curves(file: Path, runs: Sequence[Trained], control: Trained | None, metric: str) -> None:
    """Left: mean reward of a step's attempts. Right: the held-out metric, greedy. The control is dashed grey."""
    mpl.use("Agg")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    rewards, scores = figure.subplots(1, 2)
    for run in runs:
        label = run.job.config.name
        rewards.plot(*_smoothed(run.rewards), label=label, linewidth=1.4)
        scores.plot(*zip(*run.held_out, strict=True), marker="o", markersize=4, label=label, linewidth=1.4)
    if control is not None:
        grey = {"color": "0.55", "linestyle": "--", "linewidth": 1.2, "label": "control: rewards shuffled"}
        rewards.plot(*_smoothed(control.rewards), **grey)
        scores.plot(*zip(*control.held_out, strict=True), **grey)
    rewards.set(xlabel="step", ylabel="mean reward of a step's attempts")
    scores.set(xlabel="step", ylabel=f"held-out {metric}, greedy")
    for axes in (rewards, scores):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    scores.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    half = SMOOTH // 2
    means = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return steps, [sum(window) / len(window) for window in means]
