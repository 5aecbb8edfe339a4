"""kill -9 of the whole trainer, for real: what was acknowledged is there, and the run goes on bit-exactly."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from moontune.checkpoints import CheckpointStore
from moontune.checkpoints.folder import verify_folder
from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import MoontuneError, RequestIdReused, Unavailable
from moontune.values.finetune import Finetune, LoraSettings, NewFinetune
from moontune.values.model_ref import PolicyVersion
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings, TrainStep, TrainStepResult
from tests.fakes.tiny_base import write_tiny_base
from tests.services.trainer.made import rl_group
from tests.services.trainer.process import TrainerProcess

ONCE = RetryPolicy(attempts=1)


def step(finetune: Finetune, number: int, prefix: str = "step-") -> TrainStep:
    """The number-th step of the run, the same bytes whenever it is sent; nothing recorded in it is believed."""
    nobody = PolicyVersion("any", "sha256:" + "0" * 64)
    groups = tuple(rl_group(Skill.DETECT, 10 * number + index, nobody, verified=False) for index in range(3))
    settings = TrainSettings(learning_rate=1e-2)
    state = f"cursor {number}".encode()
    return TrainStep(finetune.id, f"{prefix}{number}", groups, settings, expected_step=number - 1, client_state=state)


async def create(trainer: TrainerProcess) -> Finetune:
    async with TrainerClient(trainer.address) as client:
        return await client.create_finetune(NewFinetune("create", "killed", lora=LoraSettings(4)))


async def apply(
    trainer: TrainerProcess, finetune: Finetune, number: int, prefix: str = "step-", retry: RetryPolicy = ONCE
) -> TrainStepResult:
    async with TrainerClient(trainer.address, retry=retry) as client:
        return await client.train_step(step(finetune, number, prefix))


async def apply_and_kill(trainer: TrainerProcess, finetune: Finetune, number: int, after_s: float) -> bool:
    """Send a step and kill everything a little later; whether it was acknowledged before."""
    sent = asyncio.create_task(apply(trainer, finetune, number))
    await asyncio.sleep(after_s)
    await asyncio.to_thread(trainer.kill)
    try:
        await sent
    except Unavailable:
        return False
    return True


async def check(trainer: TrainerProcess, finetune: Finetune, acknowledged: int) -> int:
    """The step count is the acknowledged one or one more, and its files are whole; returns it."""
    async with TrainerClient(trainer.address) as client:
        now = await client.get_finetune(finetune.id)
    assert now.step in (acknowledged, acknowledged + 1)
    folders = sorted((trainer.data_dir / "steps" / finetune.id).iterdir())
    assert [folder.name[:8] for folder in folders] == [f"{number:08d}" for number in range(now.step + 1)]
    assert verify_folder(folders[-1]).adapter_digest == now.adapter_digest
    assert not (trainer.data_dir / "spool").exists() or not list((trainer.data_dir / "spool").iterdir())
    return now.step


async def run_through(trainer: TrainerProcess, finetune: Finetune, numbers: range, prefix: str = "step-") -> list[str]:
    """Apply steps, waiting for a worker that is being started again; their adapters' digests."""
    results = [await apply(trainer, finetune, number, prefix, RetryPolicy()) for number in numbers]
    return [result.adapter_digest for result in results]


async def test_killed_between_and_during_steps_continues_bit_exactly(tmp_path: Path) -> None:
    trainer = TrainerProcess(write_tiny_base(tmp_path / "base"), tmp_path / "data").start()
    try:
        finetune = await create(trainer)
        found = await run_through(trainer, finetune, range(1, 3))
        trainer.kill()  # between steps
        trainer.start()
        assert await check(trainer, finetune, 2) == 2
        replayed = await apply(trainer, finetune, 2)  # across a restart: the stored answer, not a second step
        assert (replayed.replayed, replayed.step, replayed.adapter_digest) == (True, 2, found[-1])
        async with TrainerClient(trainer.address) as client:
            other = step(finetune, 3)
            with pytest.raises(RequestIdReused):
                await client.train_step(TrainStep(finetune.id, "step-2", other.groups, other.settings))
        await apply_and_kill(trainer, finetune, 3, after_s=0.08)  # during a step
        trainer.start()
        await check(trainer, finetune, 2)
        found += await run_through(trainer, finetune, range(3, 4))
        await worker_killed_during(trainer, finetune, 4)
        found += await run_through(trainer, finetune, range(4, 6))
        # The same settings and steps without a cut give the same bits; the adapter's digest does not know its finetune.
        async with TrainerClient(trainer.address) as client:
            straight = await client.create_finetune(NewFinetune("straight", "straight", lora=LoraSettings(4)))
        assert found == await run_through(trainer, straight, range(1, 6), prefix="straight-")
    finally:
        trainer.kill()


async def worker_killed_during(trainer: TrainerProcess, finetune: Finetune, number: int) -> None:
    """kill -9 of the model worker alone: the step fails as retryable, the port stays open, the worker comes back."""
    sent = asyncio.create_task(apply(trainer, finetune, number))
    await asyncio.sleep(0.03)
    os.kill(worker_pid(trainer), signal.SIGKILL)
    try:
        await sent
    except MoontuneError as error:
        assert error.retryable, error
    async with TrainerClient(trainer.address) as client:
        assert (await client.get_finetune(finetune.id)).step in (number - 1, number)


def worker_pid(trainer: TrainerProcess) -> int:
    """The front's child that holds torch: the one with the most memory."""
    assert trainer._process is not None
    tasks = Path(f"/proc/{trainer._process.pid}/task").glob("*/children")
    children = [int(pid) for path in tasks for pid in path.read_text().split()]
    return max(children, key=lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]))


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_killed_six_times_at_random_with_the_real_learner(tmp_path: Path) -> None:
    rng = random.Random(4)
    base = write_tiny_base(tmp_path / "base")
    trainer, straight = TrainerProcess(base, tmp_path / "data").start(), TrainerProcess(base, tmp_path / "straight")
    try:
        finetune, done = await create(trainer), 0
        for _ in range(6):
            acknowledged = await apply_and_kill(trainer, finetune, done + 1, after_s=rng.uniform(0.0, 0.25))
            trainer.start()
            done = await check(trainer, finetune, done + acknowledged)
            if rng.random() < 0.5:
                done = (await apply(trainer, finetune, done + 1)).step
        async with TrainerClient(trainer.address) as client:
            saved = await client.save_checkpoint(finetune.id)
        assert CheckpointStore(str(trainer.data_dir / "checkpoints")).verify(finetune.id, done).step == done
        straight.start()
        expected = await run_through(straight, await create(straight), range(1, done + 1))
        assert saved.adapter_digest == expected[-1]
    finally:
        trainer.kill()
        straight.kill()
