"""Steps through the whole service on loopback: where their time goes, and what changing between finetunes costs."""

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks.training.groups import groups
from moontune.clients.trainer import TrainerClient
from moontune.serving.server import ServiceApp, opened
from moontune.telemetry.names import TrainKey
from moontune.values.finetune import Finetune, LoraSettings, NewFinetune
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings, TrainStep
from services.trainer.__main__ import worker
from services.trainer.config import TrainerSettings
from services.trainer.servicer import build

PHASES = {
    "upload": TrainKey.SECONDS_UPLOAD,
    "prepare": TrainKey.SECONDS_PREPARE,
    "forward": TrainKey.SECONDS_FORWARD,
    "backward": TrainKey.SECONDS_BACKWARD,
    "optimiser": TrainKey.SECONDS_OPTIMISER,
    "files": TrainKey.SECONDS_PERSIST,
}


@dataclass(slots=True)
class Split:
    """Medians in seconds. commit: what of the call is none of the other phases: the database's commit, and the rpc.

    publish: after the step, until a client has its adapter whole and checked.
    """

    step: float = 0.0
    phases: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def durability(self) -> float:
        """Files and commit: an upper bound, the rpc is in it."""
        return self.phases["files"] + self.phases["commit"]


async def measure(
    base: str, folder: Path, sizes: list[tuple[Skill, int, int, int]], rounds: int
) -> tuple[dict[str, Split], dict[str, float]]:
    """Splits by size, interleaved; and seconds of a step with and without a change of finetune before it."""
    splits: dict[str, list[tuple[float, dict[str, float]]]] = {}
    async with Service(base, folder / "sizes", live_finetunes=4) as service:
        finetune = await service.create("sizes")
        steps = {_name(*size): tuple(groups(*size)) for size in sizes}
        for turn in range(rounds + 1):
            for name, found in steps.items():
                taken, metrics = await service.step(finetune, found)
                if turn:
                    splits.setdefault(name, []).append((taken, metrics))
    return {name: _split(found) for name, found in splits.items()}, await _switching(base, folder, rounds)


class Service:
    """A trainer on a free port with a client."""

    def __init__(self, base: str, folder: Path, live_finetunes: int) -> None:
        self._settings = TrainerSettings(
            port=0, base=base, device="cpu", data_dir=folder, live_finetunes=live_finetunes, reflection=False
        )
        self._count = 0

    async def __aenter__(self) -> Self:
        settings = self._settings
        self._opened = opened(
            [ServiceApp("trainer", settings, lambda chassis: build(chassis, settings))], worker(settings)
        )
        (chassis,) = await self._opened.__aenter__()
        self._client = await TrainerClient(f"127.0.0.1:{chassis.port}").__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(None, None, None)
        await self._opened.__aexit__(None, None, None)

    async def create(self, name: str) -> Finetune:
        """A finetune of rank 8."""
        return await self._client.create_finetune(NewFinetune(name, name, lora=LoraSettings(8)))

    async def step(self, finetune: Finetune, found: tuple) -> tuple[float, dict[str, float]]:
        """Seconds of one step as the client sees it, and its metrics."""
        self._count += 1
        order = TrainStep(finetune.id, f"step-{self._count}", found, TrainSettings(learning_rate=1e-4))
        started = time.perf_counter()
        result = await self._client.train_step(order)
        taken, started = time.perf_counter() - started, time.perf_counter()
        with tempfile.TemporaryDirectory() as into:
            await self._client.download_adapter(finetune.id, Path(into) / "adapter", step=result.step)
        return taken, {**result.metrics, "publish": time.perf_counter() - started}


async def _switching(base: str, folder: Path, rounds: int) -> dict[str, float]:
    """Two finetunes in turn: both in memory, and each read anew from its files because only one has room."""
    found: dict[str, float] = {}
    for name, live in (("in_memory", 2), ("from_files", 1)):
        seconds: list[float] = []
        async with Service(base, folder / name, live) as service:
            both = [await service.create(f"{name}-{index}") for index in range(2)]
            small = tuple(groups(Skill.DETECT, 2, 4, 2))
            for turn in range(rounds + 1):
                for finetune in both:
                    taken, _ = await service.step(finetune, small)
                    if turn:
                        seconds.append(taken)
        found[name] = statistics.median(seconds)
    return found


def _split(found: list[tuple[float, dict[str, float]]]) -> Split:
    def median(key: TrainKey) -> float:
        return statistics.median(metrics.get(key, 0.0) for _, metrics in found)

    phases = {name: median(key) for name, key in PHASES.items()}
    rest = [
        taken - metrics.get(TrainKey.SECONDS_UPLOAD, 0.0) - metrics[TrainKey.SECONDS_STEP] for taken, metrics in found
    ]
    phases["commit"] = statistics.median(rest)
    phases["publish"] = statistics.median(metrics["publish"] for _, metrics in found)
    return Split(statistics.median(taken for taken, _ in found), phases)


def _name(skill: Skill, count: int, rollouts: int, length: int) -> str:
    return f"{skill} {count} x {rollouts} x {length}"
