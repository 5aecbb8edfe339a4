"""Reward, trainer, rollout and inference in one process over one real worker, on free ports, with a seeded base."""

import contextlib
import io
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from moontune.clients.inference import InferenceClient
from moontune.clients.rollout import RolloutClient
from moontune.clients.trainer import TrainerClient
from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, opened
from moontune.values.finetune import Finetune, LoraSettings, NewFinetune
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from moontune.values.training import SftGroup, TrainSettings, TrainStep
from services.__main__ import shared_worker
from services.inference.config import InferenceSettings
from services.inference.servicer import build as build_inference
from services.reward.config import RewardSettings
from services.reward.servicer import build as build_reward
from services.rollout.config import RolloutSettings
from services.rollout.servicer import build as build_rollout
from services.trainer.__main__ import worker as trainer_worker
from services.trainer.config import TrainerSettings
from services.trainer.servicer import build as build_trainer
from tests.fakes.tiny_base import write_tiny_base


@dataclass(frozen=True, slots=True)
class ModelStack:
    """Clients of the running services, the chassis by name, and where things are."""

    rollout: RolloutClient
    trainer: TrainerClient
    inference: InferenceClient
    chassis: dict[str, Chassis]
    folder: Path

    async def finetune(self, name: str, steps: int = 1) -> Finetune:
        """A finetune trained for some steps on one made-up label, far from the base."""
        made = await self.trainer.create_finetune(NewFinetune("", name, lora=LoraSettings(rank=4)))
        return await self.finetune_on(made, steps)

    async def finetune_on(self, made: Finetune, steps: int, learning_rate: float = 0.05) -> Finetune:
        """More such steps."""
        label = GroundTruth(boxes=(Box(0.1, 0.1, 0.3, 0.4), Box(0.5, 0.5, 0.9, 0.8)))
        for _ in range(steps):
            group = SftGroup(detect(), label)
            settings = TrainSettings(learning_rate=learning_rate)
            result = await self.trainer.train_step(TrainStep(made.id, "", (group,), settings))
            assert result.applied
        return await self.trainer.get_finetune(made.id)


def picture(seed: int = 0, width: int = 40, height: int = 40) -> Image:
    """Noise as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG")
    return Image.of(file.getvalue())


def detect(seed: int = 0, temperature: float = 1.0) -> SkillRequest:
    """A detect request on one of the pictures."""
    settings = SamplingSettings(temperature, max_tokens=30, max_objects=4)
    return SkillRequest(Skill.DETECT, picture(seed), object="cup", settings=settings)


@contextlib.asynccontextmanager
async def model_stack(folder: Path) -> AsyncGenerator[ModelStack]:
    """Start everything; the base is written below `folder`."""
    base = str(write_tiny_base(folder / "base"))
    ports = {name: _free_port() for name in ("trainer", "reward")}
    reward = RewardSettings(port=ports["reward"])
    trainer = TrainerSettings(port=ports["trainer"], base=base, device="cpu", data_dir=folder / "data")
    rollout = RolloutSettings(
        port=0,
        base=base,
        device="cpu",
        trainer_address=f"127.0.0.1:{ports['trainer']}",
        reward_address=f"127.0.0.1:{ports['reward']}",
    )
    inference = InferenceSettings(
        port=0, base=base, device="cpu", checkpoint_store=str(folder / "data" / "checkpoints"), recheck_s=0.0
    )

    async def start_reward(chassis: Chassis) -> None:
        await build_reward(chassis, reward)

    async def start_trainer(chassis: Chassis) -> None:
        await build_trainer(chassis, trainer)

    async def start_rollout(chassis: Chassis) -> None:
        await build_rollout(chassis, rollout)

    async def start_inference(chassis: Chassis) -> None:
        await build_inference(chassis, inference)

    apps = [
        ServiceApp("reward", reward, start_reward),
        ServiceApp("trainer", trainer, start_trainer),
        ServiceApp("rollout", rollout, start_rollout),
        ServiceApp("inference", inference, start_inference),
    ]
    specs = {"rollout": rollout.worker(), "trainer": trainer_worker(trainer), "inference": inference.worker()}
    async with opened(apps, shared_worker(specs)) as started:
        chassis = {app.name: each for app, each in zip(apps, started, strict=True)}
        async with (
            RolloutClient(f"127.0.0.1:{chassis['rollout'].port}") as rollouts,
            TrainerClient(f"127.0.0.1:{chassis['trainer'].port}") as trainers,
            InferenceClient(f"127.0.0.1:{chassis['inference'].port}") as inferences,
        ):
            yield ModelStack(rollouts, trainers, inferences, chassis, folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
