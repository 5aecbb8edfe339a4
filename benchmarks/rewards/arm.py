"""An arm of a benchmark: something that grades, and how many grades a call of it makes."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arm:
    """name: as in the `rates` of the written file. run: grades once. grades: made by one run."""

    name: str
    run: Callable[[], object]
    grades: int


def rates(arms: Sequence[Arm], rounds: int) -> dict[str, float]:
    """Grades per second of each arm: the median over rounds, arms interleaved in an order that rotates.

    A first round, which warms up, is left out.
    """
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(rounds + 1):
        for arm in [*arms[turn % len(arms) :], *arms[: turn % len(arms)]]:
            started = time.perf_counter()
            arm.run()
            if turn:
                seconds[arm.name].append(time.perf_counter() - started)
    return {arm.name: arm.grades / statistics.median(seconds[arm.name]) for arm in arms}
