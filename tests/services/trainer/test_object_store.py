"""Checkpoints in a real object store: whole or absent whatever is killed, readable without the trainer."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from moontune.checkpoints import CheckpointStore
from moontune.checkpoints.fail_points import VARIABLE
from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import CheckpointCorrupt, CheckpointNotFound, Unavailable
from moontune.values.finetune import CheckpointRef, Finetune, LoraSettings, NewFinetune
from tests.fakes.object_store import BUCKET, object_store
from tests.services.trainer.killed_run import GROUP
from tests.services.trainer.process import TrainerProcess
from tests.services.trainer.small_learner import WEIGHTS_FILE, digest_of

ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class Setting:
    trainer: TrainerProcess
    store: CheckpointStore
    url: str


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with object_store() as environment:
        url = f"s3://{BUCKET}/runs/{tmp_path.name}"
        trainer = TrainerProcess(
            tmp_path / "base", tmp_path / "data", "tests.services.trainer.small_learner", **environment
        )
        trainer.settings["checkpoint-store"] = url
        try:
            yield Setting(trainer, CheckpointStore(url), url)
        finally:
            trainer.kill()


async def begun(client: TrainerClient) -> Finetune:
    from moontune.values.training import TrainStep

    finetune = await client.create_finetune(NewFinetune("create", "remote", lora=LoraSettings(4)))
    await client.train_step(TrainStep(finetune.id, "one", (GROUP,), expected_step=0, client_state=b"1"))
    return finetune


@pytest.mark.parametrize("point", [pytest.param("store.file:2", marks=pytest.mark.slow), "store.before-manifest"])
async def test_a_trainer_killed_during_an_upload_leaves_nothing_listed(setting: Setting, point: str) -> None:
    trainer, store = setting.trainer.start(**{VARIABLE: point}), setting.store
    async with TrainerClient(trainer.address, retry=ONCE) as client:
        finetune = await begun(client)
        with pytest.raises(Unavailable):
            await client.save_checkpoint(finetune.id, request_id="save")
    trainer.kill()
    assert store._filesystem.find(f"{store._root}/{finetune.id}")  # some of it is there
    assert (store.steps(finetune.id), store.finetunes()) == ([], [])
    with pytest.raises(CheckpointNotFound):
        store.fetch_adapter(finetune.id, 1, trainer.data_dir / "fetched")
    trainer.start()
    async with TrainerClient(trainer.address) as client:
        assert (await client.list_checkpoints(finetune.id)).items == ()
        saved = await client.save_checkpoint(finetune.id, request_id="save")
        assert (await client.list_checkpoints(finetune.id)).items == (saved,)
    assert store.verify(finetune.id, 1).adapter_digest == saved.adapter_digest


async def test_saved_steps_live_in_the_bucket_alone(setting: Setting, tmp_path: Path) -> None:
    trainer, store = setting.trainer.start(), setting.store
    async with TrainerClient(trainer.address) as client:
        finetune = await begun(client)
        saved = await client.save_checkpoint(finetune.id)
        assert store.steps(finetune.id) == [1]
        restored, state = await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
        assert (restored.adapter_digest, state) == (saved.adapter_digest, b"1")
        trainer.kill()  # what is saved is read without it
        manifest = store.fetch_adapter(finetune.id, 1, tmp_path / "fetched")
        weights = (tmp_path / "fetched" / WEIGHTS_FILE).read_bytes()
        assert manifest.adapter_digest == saved.adapter_digest == digest_of(weights)
    trainer.start()
    async with TrainerClient(trainer.address) as client:
        await client.delete_checkpoint(CheckpointRef(finetune.id, step=1))
    assert store._filesystem.find(store._root) == []


@pytest.mark.slow
async def test_damage_in_the_bucket_is_found_and_can_be_deleted(setting: Setting) -> None:
    trainer, store = setting.trainer.start(), setting.store
    async with TrainerClient(trainer.address) as client:
        finetune = await begun(client)
        saved = await client.save_checkpoint(finetune.id)
        path = f"{store._path(finetune.id, 1)}"
        store._filesystem.pipe_file(f"{path}/{WEIGHTS_FILE}", hashlib.sha256(b"else").digest())
        with pytest.raises(CheckpointCorrupt, match=WEIGHTS_FILE):
            await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
        store._filesystem.pipe_file(f"{path}/manifest.json", b"{")
        with pytest.raises(CheckpointCorrupt, match=r"manifest\.json"):
            await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
        await client.delete_checkpoint(CheckpointRef(finetune.id, checkpoint_id=saved.id))
        assert store._filesystem.find(store._root) == []
        assert (await client.save_checkpoint(finetune.id)).id != saved.id


async def test_an_object_store_that_is_away_is_unavailable_and_training_goes_on(tmp_path: Path) -> None:
    from moontune.values.training import TrainStep

    with object_store() as environment:
        pass  # gone, and its port with it
    trainer = TrainerProcess(
        tmp_path / "base", tmp_path / "data", "tests.services.trainer.small_learner", **environment
    )
    trainer.settings["checkpoint-store"] = f"s3://{BUCKET}/x"
    trainer.start(AWS_MAX_ATTEMPTS="1")
    try:
        async with TrainerClient(trainer.address, retry=ONCE) as client:
            finetune = await begun(client)
            with pytest.raises(Unavailable, match="cannot be"):
                await client.save_checkpoint(finetune.id)
            order = TrainStep(finetune.id, "two", (GROUP,), expected_step=1, client_state=b"2")
            assert (await client.train_step(order)).step == 2
    finally:
        trainer.kill()
