"""Disks and databases that fail under a running trainer: a clear error, nothing half-applied, and the rest goes on."""

import resource
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moontune.checkpoints.fail_points import VARIABLE
from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import CheckpointCorrupt, MoontuneError, ResourceExhausted, Unavailable
from moontune.values.finetune import CheckpointRef, Finetune, LoraSettings, MetricPoint, NewFinetune
from moontune.values.training import TrainStep, TrainStepResult
from tests.services.trainer.killed_run import GROUP
from tests.services.trainer.process import TrainerProcess
from tests.services.trainer.small_learner import WEIGHTS_FILE

ONCE = RetryPolicy(attempts=1)
FILES = (WEIGHTS_FILE, "adapter_config.json", "optimizer.safetensors", "trainer_state.json", "manifest.json")
ROOT_WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[TrainerProcess]:
    running = TrainerProcess(tmp_path / "base", tmp_path / "data", "tests.services.trainer.small_learner")
    yield running
    running.kill()


def client_of(trainer: TrainerProcess) -> TrainerClient:
    return TrainerClient(trainer.address, retry=ONCE)


async def create(client: TrainerClient, name: str) -> Finetune:
    return await client.create_finetune(NewFinetune("", name, lora=LoraSettings(4)))


async def step(client: TrainerClient, finetune: Finetune, label: str) -> TrainStepResult:
    return await client.train_step(TrainStep(finetune.id, label, (GROUP,), client_state=label.encode()))


async def refused(client: TrainerClient, finetune: Finetune, label: str) -> MoontuneError:
    """The error of a step that is not applied."""
    before = await client.get_finetune(finetune.id)
    with pytest.raises(MoontuneError) as raised:
        await step(client, finetune, label)
    assert await client.get_finetune(finetune.id) == before
    return raised.value


def limit_files(pid: int, size_bytes: int) -> None:
    """As a disk quota would: no file of this process may grow beyond it (RLIMIT_FSIZE; the write says EFBIG)."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


async def test_a_full_disk_refuses_and_lets_go_on(trainer: TrainerProcess) -> None:
    async with client_of(trainer.start()) as client:
        finetune = await create(client, "full")
        await step(client, finetune, "one")
        await client.save_checkpoint(finetune.id)
        front, *workers = trainer.pids
        for pid in workers:
            limit_files(pid, 100)
        error = await refused(client, finetune, "two")
        assert isinstance(error, ResourceExhausted)
        assert "step 2 cannot be written and was not applied: the disk is full" in str(error)
        await client.log_metrics(finetune.id, [MetricPoint(1, "mine", 0.5, datetime.now(UTC))])
        for pid in workers:
            limit_files(pid, resource.RLIM_INFINITY)
        assert (await step(client, finetune, "two")).step == 2
        limit_files(front, 100)  # the front's spool, database and checkpoint store
        error = await refused(client, finetune, "three")
        assert isinstance(error, ResourceExhausted | Unavailable), error
        with pytest.raises((ResourceExhausted, Unavailable)):
            await client.save_checkpoint(finetune.id, request_id="save-two")
        assert [saved.step for saved in (await client.list_checkpoints(finetune.id)).items] == [1]
        limit_files(front, resource.RLIM_INFINITY)
        assert (await step(client, finetune, "three")).step == 3
        assert (await client.save_checkpoint(finetune.id, step=2, request_id="save-two")).step == 2


async def test_folders_that_became_read_only_refuse_and_let_go_on(trainer: TrainerProcess) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    import os

    trainer.wrapper = ROOT_WITHOUT_PRIVILEGE if os.geteuid() == 0 else ()
    async with client_of(trainer.start()) as client:
        finetune, other = await create(client, "read-only"), await create(client, "other")
        await step(client, finetune, "one")
        folder = trainer.data_dir / "steps" / finetune.id
        folder.chmod(0o500)
        try:
            error = await refused(client, finetune, "two")
            assert isinstance(error, Unavailable)
            assert "step 2 cannot be written and was not applied" in str(error)
            assert "Permission denied" in str(error)
            assert (await step(client, other, "another")).step == 1
            assert (await client.save_checkpoint(finetune.id)).step == 1
        finally:
            folder.chmod(0o700)
        assert (await step(client, finetune, "two")).step == 2
        store = trainer.data_dir / "checkpoints" / finetune.id
        store.chmod(0o500)
        try:
            with pytest.raises(Unavailable, match=r"cannot be saved.*Permission denied"):
                await client.save_checkpoint(finetune.id)
        finally:
            store.chmod(0o700)
        assert (await client.save_checkpoint(finetune.id)).step == 2


async def test_a_damaged_or_missing_file_ends_its_finetune_alone_until_a_restore(trainer: TrainerProcess) -> None:
    async with client_of(trainer.start()) as client:
        other = await create(client, "other")
        for name in FILES:
            for damage in (spoil, Path.unlink):
                finetune = await create(client, f"{damage.__name__} {name}")
                await step(client, finetune, f"1 {finetune.name}")
                await client.save_checkpoint(finetune.id)
                await step(client, finetune, f"2 {finetune.name}")
                (folder,) = (trainer.data_dir / "steps" / finetune.id).glob("00000002-*")
                damage(folder / name)
                error = await refused(client, finetune, f"3 {finetune.name}")
                assert isinstance(error, CheckpointCorrupt), (name, error)
                assert name in str(error)
                with pytest.raises(CheckpointCorrupt):
                    await client.save_checkpoint(finetune.id)
                await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
                assert (await step(client, finetune, f"4 {finetune.name}")).step == 3
        assert (await step(client, other, "goes on")).step == 1


def spoil(path: Path) -> None:
    """Turn over one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def test_a_step_that_was_computed_and_not_committed_does_not_stay(
    trainer: TrainerProcess, tmp_path: Path
) -> None:
    async with client_of(trainer.start()) as client:
        finetune = await create(client, "uncommitted")
        await step(client, finetune, "one")
        database = sqlite3.connect(trainer.data_dir / "trainer.db", isolation_level=None)
        # What the transaction stores last cannot be stored: the folder is there, the step is not.
        database.execute("CREATE TRIGGER no BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'no'); END")
        await refused(client, finetune, "two")
        assert len(list((trainer.data_dir / "steps" / finetune.id).iterdir())) == 3
        database.execute("DROP TRIGGER no")
        database.close()
        assert (await step(client, finetune, "two")).step == 2
        folder = trainer.data_dir / "steps" / finetune.id
        while len(list(folder.iterdir())) > 3:  # the tidying after the step; the test's own time limit ends this
            await client.get_finetune(finetune.id)
        assert sorted(path.name[:8] for path in folder.iterdir()) == ["00000000", "00000001", "00000002"]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["create.in-transaction", "delete.in-transaction", "delete.committed"])
async def test_creating_and_deleting_are_whole_or_not_at_all(trainer: TrainerProcess, point: str) -> None:
    trainer.start()
    if not point.startswith("create"):
        async with client_of(trainer) as client:
            finetune = await create(client, "whole")
            await step(client, finetune, "one")
            await client.save_checkpoint(finetune.id)
        trainer.kill()
        trainer.start(**{VARIABLE: point})
        async with client_of(trainer) as client:
            with pytest.raises(Unavailable):
                await client.delete_finetune(finetune.id, request_id="delete")
    else:
        trainer.kill()
        trainer.start(**{VARIABLE: point})
        async with client_of(trainer) as client:
            with pytest.raises(Unavailable):
                await create(client, "whole")
    trainer.kill()
    trainer.start()
    async with client_of(trainer) as client:
        listed = [each.name for each in (await client.list_finetunes()).items]
        assert listed == (["whole"] if point == "delete.in-transaction" else [])
        if point.startswith("delete"):
            await client.delete_finetune(finetune.id, request_id="delete")
            store = trainer.data_dir / "checkpoints" / finetune.id
            while store.exists() and list(store.iterdir()):  # a deletion that was committed is finished at the start
                await client.list_finetunes()
        assert (await create(client, "whole")).step == 0


@pytest.mark.slow
async def test_a_database_locked_by_another_process_is_waited_for_then_told(trainer: TrainerProcess) -> None:
    async with client_of(trainer.start()) as client:
        finetune = await create(client, "locked")
        holder = sqlite3.connect(trainer.data_dir / "trainer.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        error = await refused(client, finetune, "one")  # after 10 s
        assert isinstance(error, Unavailable)
        assert "database is locked" in str(error)
        holder.execute("ROLLBACK")
        holder.close()
        assert (await step(client, finetune, "one")).step == 1
