"""Arms of one comparison, taken in turns: each round runs every arm once, in an order that rotates."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do the same work; `run` does it once and may say how many decisions that took."""

    name: str
    run: Callable[[], object]


def measure(arms: Sequence[Arm], rounds: int) -> dict[str, float]:
    """Median seconds of each arm; one round before counts for nothing."""
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(rounds + 1):
        first = turn % len(arms)
        for arm in [*arms[first:], *arms[:first]]:
            started = time.perf_counter()
            arm.run()
            if turn:
                seconds[arm.name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(title: str, medians: dict[str, float], rollouts: int) -> dict[str, dict[str, float]]:
    """Print a table of medians and rates; the same as numbers."""
    table = Table(title=title)
    for column in ("arm", "ms", "rollouts/s"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, median in medians.items():
        table.add_row(name, f"{1e3 * median:.1f}", f"{rollouts / median:.0f}")
    Console(width=100).print(table)
    return {name: {"seconds": median, "rollouts_per_s": rollouts / median} for name, median in medians.items()}
