"""kill -9 of the trainer at random moments and inside commits, 10 times by default and 100 times in the slow run."""

import random
from pathlib import Path

import pytest

from moontune.checkpoints.fail_points import FAIL_POINTS, VARIABLE, fail_point
from moontune.errors import InvalidField, MoontuneError
from tests.services.trainer.killed_run import KilledRun
from tests.services.trainer.process import TrainerProcess

MODULE = "tests.services.trainer.small_learner"
ELSEWHERE = (
    "create.in-transaction",
    "delete.in-transaction",
    "delete.committed",
    "store.file",
    "store.before-manifest",
)
"""Not on the way of this run's changes; `test_faults` and `test_object_store` come by."""

COMMITS = [point for point in FAIL_POINTS if point not in ELSEWHERE]


async def killed(tmp_path: Path, seed: int, ends: list[str | None]) -> KilledRun:
    """A first life that ends at a random moment, then one for each entry: at that fail-point, or at random for None."""
    rng = random.Random(seed)
    trainer = TrainerProcess(tmp_path / "base", tmp_path / "data", MODULE)
    trainer.start()
    run = KilledRun(trainer, tmp_path, rng)
    try:
        await run.begin()
        pending, end = list(ends), None
        while True:
            move = await run.until_killed(rng.uniform(0.0, 0.6) if end is None else None)
            if not pending:
                break
            end = pending.pop(0)
            try:
                trainer.start(**{VARIABLE: end or ""})
                await run.settle(move)
            except (MoontuneError, RuntimeError) as error:
                assert end is not None, error  # its fail-point was on the way of the recovery: one kill more
                trainer.kill()
                trainer.start()
                await run.settle(move)
                end = None
        trainer.start()
        await run.settle(move)
    finally:
        trainer.kill()
    return run


@pytest.mark.timeout(300)
async def test_killed_ten_times_a_run_loses_nothing(tmp_path: Path) -> None:
    points = ["folder.flushed", "step.in-transaction", "step.committed", "save.stored", "remove.manifest"]
    run = await killed(tmp_path, 1, [*points, *[None] * 4])
    assert len(run.book.weights) > 5


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_killed_a_hundred_times_a_run_loses_nothing(tmp_path: Path) -> None:
    points: list[str | None] = [COMMITS[index % len(COMMITS)] for index in range(30)]
    points += [None] * 69
    random.Random(2).shuffle(points)
    run = await killed(tmp_path, 2, points)
    assert len(run.book.weights) > 50


def test_a_fail_point_is_inert_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, signal: died.append(signal))
    monkeypatch.delenv(VARIABLE, raising=False)
    fail_point("step.committed")
    monkeypatch.setenv(VARIABLE, "step.computed:2")
    fail_point("step.committed")
    fail_point("step.computed")
    assert died == []
    fail_point("step.computed")
    assert died == [9]
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(InvalidField, match=r"nowhere.*allowed: .*one of folder\.written"):
        fail_point("step.committed")
