"""A saved step is served from the object store by a replica that starts when the trainer is dead."""

from pathlib import Path

import pytest

from moontune.clients.inference import InferenceClient
from moontune.clients.trainer import TrainerClient
from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, opened
from moontune.values.finetune import LoraSettings, NewFinetune
from moontune.values.inference import InferenceRequest
from moontune.values.training import TrainStep
from services.inference.config import InferenceSettings
from services.inference.servicer import build
from tests.fakes.object_store import BUCKET, object_store
from tests.fakes.tiny_base import write_tiny_base
from tests.services.model_stack import detect
from tests.services.trainer.killed_run import GROUP
from tests.services.trainer.process import TrainerProcess


@pytest.mark.slow
async def test_a_new_replica_serves_a_saved_step_with_the_trainer_dead(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    with object_store() as environment:
        url = f"s3://{BUCKET}/served"
        trainer = TrainerProcess(base, tmp_path / "data", **environment)
        trainer.settings["checkpoint-store"] = url
        trainer.start()
        try:
            async with TrainerClient(trainer.address) as client:
                finetune = await client.create_finetune(NewFinetune("", "served", lora=LoraSettings(4)))
                await client.train_step(TrainStep(finetune.id, "", (GROUP,)))
                saved = await client.save_checkpoint(finetune.id)
        finally:
            trainer.kill()
        settings = InferenceSettings(port=0, base=str(base), device="cpu", checkpoint_store=url)

        async def start(chassis: Chassis) -> None:
            await build(chassis, settings)

        async with (
            opened([ServiceApp("inference", settings, start)], settings.worker()) as [chassis],
            InferenceClient(f"127.0.0.1:{chassis.port}") as client,
        ):
            model = f"tiny-fake/{finetune.id}@{saved.step}"
            assert model in {each.name for each in (await client.list_models()).items}
            answer = await client.answer(InferenceRequest(model, detect()))
            assert answer.policy.adapter_digest == saved.adapter_digest
