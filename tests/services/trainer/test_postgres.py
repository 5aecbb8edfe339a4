"""The trainer on a real PostgreSQL: what was acknowledged is there after a kill -9, events come in order."""

from pathlib import Path
from typing import Protocol

from moontune.clients.trainer import TrainerClient
from moontune.values.finetune import CheckpointRef, LoraSettings, NewFinetune, StepApplied
from moontune.values.training import TrainStep
from tests.services.trainer.killed_run import GROUP
from tests.services.trainer.process import TrainerProcess


class Server(Protocol):
    def new_database(self) -> str: ...


async def test_a_trainer_on_postgres_keeps_what_it_acknowledged(postgres: Server, tmp_path: Path) -> None:
    trainer = TrainerProcess(tmp_path / "base", tmp_path / "data", "tests.services.trainer.small_learner")
    trainer.settings["database"] = postgres.new_database()
    trainer.start()
    try:
        async with TrainerClient(trainer.address) as client:
            finetune = await client.create_finetune(NewFinetune("", "on postgres", lora=LoraSettings(4)))
            orders = [TrainStep(finetune.id, f"step-{n}", (GROUP,), client_state=bytes([n])) for n in range(3)]
            applied = [await client.train_step(order) for order in orders]
            await client.save_checkpoint(finetune.id, step=1)
        trainer.kill()
        trainer.start()
        assert not (trainer.data_dir / "trainer.db").exists()
        async with TrainerClient(trainer.address) as client:
            assert (await client.train_step(orders[-1])).replayed
            restored, state = await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
            assert (restored.adapter_digest, state) == (applied[0].adapter_digest, bytes([0]))
            events = client.watch_finetune(finetune.id, after_step=1)
            await anext(events)
            told = [await anext(events) for _ in range(2)]
            assert [each.step for each in told if isinstance(each, StepApplied)] == [2, 3]
            onwards = await client.train_step(TrainStep(finetune.id, "again", orders[1].groups, client_state=b"\x01"))
            assert (onwards.step, onwards.adapter_digest) == (4, applied[1].adapter_digest)
            await events.aclose()
            await client.delete_finetune(finetune.id)
    finally:
        trainer.kill()
