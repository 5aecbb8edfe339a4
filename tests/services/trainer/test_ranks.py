"""Two gloo ranks under torchrun against one: the same gradient, the same finetune, and a gang that heals."""

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import InvalidField, Unavailable
from moontune.values.finetune import Finetune, FinetuneKind, LoraSettings, NewFinetune
from moontune.values.logprobs import RolloutBatch
from moontune.values.model_ref import PolicyVersion
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings, TrainStep
from services.trainer.batch import PlannedGroup
from services.trainer.gang import share_of
from tests.fakes.tiny_base import write_tiny_base
from tests.services.trainer.made import rl_group
from tests.services.trainer.process import TrainerProcess

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


@pytest.mark.slow
def test_a_divided_base_gives_the_same_step(base: Path, tmp_path: Path) -> None:
    """FSDP2 over the frozen blocks: other numbers of passes on each rank, a reference, recomputation, and a score."""
    ((gradients, _, _),) = results(base, tmp_path / "one", 1, 2, "divided")
    both = results(base, tmp_path / "two", 2, 2, "divided")
    for theirs, _, _ in both:
        assert (theirs[0] - gradients[0]).norm() < 1e-6 * gradients[0].norm()
    assert all(torch.equal(a, b) for a, b in zip(both[0][0], both[1][0], strict=True))
    assert norm_of_difference(both[0][1], both[1][1]) == 0.0
    ((whole, alone),) = [pickle.loads((tmp_path / "one" / "divided-0.pickle").read_bytes())]
    parts = [pickle.loads((tmp_path / "two" / f"divided-{rank}.pickle").read_bytes()) for rank in range(2)]
    assert {name: sum(held[name] for held, _ in parts) for name in whole} == whole
    for held, _ in parts:
        assert sum(held.values()) == pytest.approx(sum(whole.values()) / 2, rel=0.02)
    scores = parts[0][1]
    assert [len(each) for each in scores] == [len(each) for each in alone]
    for mine, other in zip(scores, alone, strict=True):
        assert [each.logprob for each in mine] == pytest.approx([each.logprob for each in other], abs=1e-3)


def planned(index: int, positions: int) -> PlannedGroup:
    return PlannedGroup(index, False, Skill.QUERY, "", "", (1,), (0.0,), (True,), 10, (positions,), 8)


def test_groups_are_shared_by_their_length() -> None:
    groups = [planned(index, positions) for index, positions in enumerate((100, 5, 5, 5, 100, 5))]
    shares = [[group.index for group in share_of(groups, rank, 2)] for rank in range(2)]
    assert shares == [[0, 5], [1, 2, 3, 4]]  # 110 and 15 positions, 15 + 15 + 15 + 110
    assert [group.index for group in share_of(groups, 0, 1)] == [0, 1, 2, 3, 4, 5]
    assert share_of(groups[:1], 1, 2) == []


class GangOfTwo:
    """`python -m services.trainer` under torchrun. Its ranks have sessions of their own: found by a mark they carry."""

    def __init__(self, folder: Path, base: Path, **settings: str) -> None:
        self.trainer = TrainerProcess(base, folder / "data", GANG_TEST=str(folder), **settings)
        self.trainer.wrapper = (*TORCHRUN, "--no-python")
        self._mark = f"GANG_TEST={folder}".encode()

    def worker(self, rank: int) -> int:
        """The process that holds a rank's model."""
        return next(pid for pid in self._pids(f"RANK={rank}".encode()) if b"spawn_main" in _read(pid, "cmdline"))

    def kill(self) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.trainer.kill()

    def _pids(self, also: bytes = b"") -> list[int]:
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        environments = {pid: _read(pid, "environ").split(b"\0") for pid in found}
        return [pid for pid, env in environments.items() if self._mark in env and (not also or also in env)]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def gang(tmp_path: Path, base: Path) -> Iterator[GangOfTwo]:
    made = GangOfTwo(tmp_path, base)
    try:
        made.trainer.start()
        yield made
    finally:
        made.kill()


def long_step(finetune: Finetune, number: int, request_id: str) -> TrainStep:
    nobody = PolicyVersion("any", "sha256:" + "0" * 64)
    groups = tuple(rl_group(Skill.DETECT, 100 * number + index, nobody, verified=False) for index in range(16))
    return TrainStep(finetune.id, request_id, groups, TrainSettings(learning_rate=1e-3, passes=16), number - 1)


def wait_for_last_group(data_dir: Path) -> None:
    """Until a step's groups are all there and it begins."""
    give_up_at = time.monotonic() + 60
    while not list(data_dir.glob("spool/*/group-00015.pickle")):
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


@pytest.mark.slow
async def test_a_rank_killed_in_a_step_fails_it_cleanly_and_training_goes_on(gang: GangOfTwo) -> None:
    once, patient = RetryPolicy(attempts=1), RetryPolicy(attempts=40, first_s=0.5, most_s=2.0)
    async with TrainerClient(gang.trainer.address, retry=once) as client:
        finetune = await client.create_finetune(NewFinetune("one", "killed", lora=LoraSettings(4)))
        digests = [(await client.train_step(long_step(finetune, 1, "step-1"))).adapter_digest]
        for rank in (1, 0):
            number = len(digests) + 1
            step = long_step(finetune, number, f"step-{number}")
            sent = asyncio.create_task(client.train_step(step))
            await asyncio.to_thread(wait_for_last_group, gang.trainer.data_dir)
            os.kill(gang.worker(rank), signal.SIGKILL)
            with pytest.raises(Unavailable):
                await sent
            async with TrainerClient(gang.trainer.address, retry=patient) as again:
                assert (await again.get_finetune(finetune.id)).step == number - 1
                result = await again.train_step(step)
            assert (result.step, result.replayed) == (number, False)
            digests.append(result.adapter_digest)
    async with TrainerClient(gang.trainer.address, retry=patient) as client:
        straight = await client.create_finetune(NewFinetune("two", "straight", lora=LoraSettings(4)))
        for number, digest in enumerate(digests, 1):
            result = await client.train_step(long_step(straight, number, f"straight-{number}"))
            assert result.adapter_digest == digest


@pytest.mark.slow
async def test_a_divided_base_behind_the_service(tmp_path: Path, base: Path) -> None:
    made = GangOfTwo(tmp_path, base, MOONTUNE_TRAINER_SHARD_BASE="true")
    try:
        made.trainer.start()
        async with TrainerClient(made.trainer.address) as client:
            with pytest.raises(InvalidField, match=r"kind.*full.*allowed: lora or lora\+region"):
                await client.create_finetune(NewFinetune("full", "full", kind=FinetuneKind.FULL))
            finetune = await client.create_finetune(NewFinetune("one", "divided", lora=LoraSettings(4)))
            for number in (1, 2):
                step = long_step(finetune, number, f"step-{number}")
                result = await client.train_step(replace(step, settings=TrainSettings(learning_rate=1e-3)))
                assert (result.step, result.applied) == (number, True)
                # A score of the leader alone between steps of all.
                batch = RolloutBatch(step.groups[0].request, step.groups[0].rollouts)
                scores = await client.compute_logprobs([batch], finetune_id=finetune.id)
                assert len(scores.rollouts) == len(batch.rollouts)
    finally:
        made.kill()
