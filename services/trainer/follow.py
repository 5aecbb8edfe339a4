"""A rank under torchrun that does not serve: keeps its worker alive, which does what the leader orders."""

import asyncio
import signal
from dataclasses import replace

from moontune.serving.worker import ModelWorker
from moontune.serving.worker_protocol import WorkerSpec
from moontune.telemetry.logs import LogSettings, configure_logs
from services.trainer.config import TrainerSettings

FOLLOWER = "services.trainer.follower:build"


def follow(settings: TrainerSettings, spec: WorkerSpec, rank: int) -> None:
    """Run this rank until SIGTERM or SIGINT; no port is opened. spec: of the leader's worker."""
    logs = LogSettings(f"trainer-{rank}", settings.log_level, settings.log_format)
    configure_logs(logs)
    own = replace(spec, components={"follower": FOLLOWER}, options={"follower": settings.learner})
    asyncio.run(_follow(own, logs))


async def _follow(spec: WorkerSpec, logs: LogSettings) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    worker = ModelWorker(spec, logs=logs)
    starting = asyncio.create_task(worker.start())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        starting.cancel()
    else:
        await starting
        await stopped
    await worker.stop()
