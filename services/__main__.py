"""`python -m services --colocate rollout,trainer,inference`: several services in one process over one model worker.

A base of 9 billion parameters does not fit a card three times. Each service keeps its own port, settings and
environment names (MOONTUNE_ROLLOUT_..., MOONTUNE_TRAINER_...). Rollout and inference share one engine, set up by the
one named first; engine and learner share the base's storage and nothing else.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, serve
from moontune.serving.settings import ServiceSettings, StartupError
from moontune.serving.worker_protocol import WorkerSpec
from services.inference.config import InferenceSettings
from services.inference.servicer import build as build_inference
from services.rollout.config import RolloutSettings
from services.rollout.servicer import build as build_rollout
from services.trainer.__main__ import worker as trainer_worker
from services.trainer.config import TrainerSettings
from services.trainer.servicer import build as build_trainer

USAGE = "usage: python -m services --colocate rollout,trainer,inference (two or three of them)"

Settings = TypeVar("Settings", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class Part(Generic[Settings]):
    """One service that can share a process: its settings, its build, and the worker it needs."""

    settings: type[Settings]
    build: Callable[[Chassis, Settings], Awaitable[None]]
    worker: Callable[[Settings], WorkerSpec]

    def open(self, name: str) -> tuple[ServiceApp, WorkerSpec]:
        """Read the settings from the environment; raises StartupError for those that are not usable."""
        settings = self.settings.load([])

        async def build(chassis: Chassis) -> None:
            await self.build(chassis, settings)

        return ServiceApp(name, settings, build), self.worker(settings)


PARTS: Mapping[str, "Part[RolloutSettings] | Part[TrainerSettings] | Part[InferenceSettings]"] = {
    "rollout": Part(RolloutSettings, build_rollout, RolloutSettings.worker),
    "trainer": Part(TrainerSettings, build_trainer, trainer_worker),
    "inference": Part(InferenceSettings, build_inference, InferenceSettings.worker),
}


def chosen(argv: Sequence[str]) -> list[str]:
    """The services named by --colocate; StartupError for anything else."""
    flags = [part for flag in argv for part in flag.split("=", 1)]
    names = flags[1].split(",") if len(flags) == 2 and flags[0] == "--colocate" else []
    if len(names) < 2 or len(set(names)) < len(names) or not set(names) <= set(PARTS):
        raise StartupError(f"{USAGE}; given: {' '.join(argv) or 'nothing'}")
    return names


def shared_worker(specs: Mapping[str, WorkerSpec]) -> WorkerSpec:
    """One worker for all; StartupError where they do not want the same base, device and threads."""
    (first, spec), *others = specs.items()
    for name, other in others:
        for field in ("base", "device", "threads"):
            mine, theirs = getattr(spec, field), getattr(other, field)
            if mine != theirs:
                raise StartupError(
                    f"{first} has {field} {mine!r} and {name} has {theirs!r}; one worker has one {field}"
                )
        spec = replace(
            spec, components={**other.components, **spec.components}, options={**other.options, **spec.options}
        )
    return spec


def main() -> None:
    """Run the chosen services until told to stop."""
    try:
        opened = {name: PARTS[name].open(name) for name in chosen(sys.argv[1:])}
        worker = shared_worker({name: spec for name, (_, spec) in opened.items()})
    except StartupError as error:
        sys.exit(f"moontune: {error}")
    serve([app for app, _ in opened.values()], worker)


if __name__ == "__main__":
    main()
