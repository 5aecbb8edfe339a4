"""Two gloo ranks under torchrun against one: the same gradient, the same finetune, and a gang that heals."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moontune.values.skill import Skill
from services.trainer.batch import PlannedGroup
from services.trainer.gang import share_of
from tests.fakes.tiny_base import write_tiny_base

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SCRIPT = str(Path(__file__).with_name("ranks_script.py"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def results(base: Path, out: Path, ranks: int, steps: int, precision: str):
    out.mkdir()
    launcher = TORCHRUN if ranks > 1 else [sys.executable]
    subprocess.run(
        [*launcher, SCRIPT, str(base), str(out), str(steps), precision],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=240,
    )
    return [pickle.loads((out / f"result-{rank}.pickle").read_bytes()) for rank in range(ranks)]


def norm_of_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "steps"), [("single", 3), ("double", 20)])
def test_two_ranks_are_one(base: Path, tmp_path: Path, precision: str, steps: int) -> None:
    ((gradients, parameters, metrics),) = results(base, tmp_path / "one", 1, steps, precision)
    both = results(base, tmp_path / "two", 2, steps, precision)
    # The first step starts from the same state; in fp64 every step does, to 1e-9 and better.
    compared = range(steps) if precision == "double" else range(1)
    for step in compared:
        for theirs, _, _ in both:
            limit = 1e-6 if precision == "single" else 1e-9
            assert (theirs[step] - gradients[step]).norm() < limit * gradients[step].norm()
    assert all(torch.equal(a, b) for a, b in zip(both[0][0], both[1][0], strict=True))  # ranks agree bit for bit
    assert norm_of_difference(both[0][1], both[1][1]) == 0.0
    if precision == "double":
        assert norm_of_difference(parameters, both[0][1]) < 1e-9
    figures = both[0][2][0]
    for name in ("loss", "sft_loss", "entropy", "clip_share", "ratio_mean", "kl", "n_decisions", "grad_norm"):
        assert figures[name] == pytest.approx(metrics[0][name], rel=1e-4, abs=1e-6), name


def planned(index: int, positions: int) -> PlannedGroup:
    return PlannedGroup(index, False, Skill.QUERY, "", "", (1,), (0.0,), (True,), 10, (positions,), 8)


def test_groups_are_shared_by_their_length() -> None:
    groups = [planned(index, positions) for index, positions in enumerate((100, 5, 5, 5, 100, 5))]
    shares = [[group.index for group in share_of(groups, rank, 2)] for rank in range(2)]
    assert shares == [[0, 5], [1, 2, 3, 4]]  # 110 and 15 positions, 15 + 15 + 15 + 110
    assert [group.index for group in share_of(groups, 0, 1)] == [0, 1, 2, 3, 4, 5]
    assert share_of(groups[:1], 1, 2) == []
