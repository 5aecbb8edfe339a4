"""The entry of every service: `run` from `__main__`, `serve` where several services share one process."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from moontune.auth.authenticator import Authenticator
from moontune.auth.keys import KeyStore
from moontune.errors import MoontuneError
from moontune.serving.chassis import Chassis
from moontune.serving.settings import ServiceSettings, StartupError, print_help
from moontune.serving.worker import ModelWorker
from moontune.serving.worker_link import WorkerGone
from moontune.serving.worker_protocol import ComponentFailure, WorkerSpec
from moontune.telemetry.logs import LogSettings, configure_logs, get_logger

log = get_logger(__name__)

S = TypeVar("S", bound=ServiceSettings)
Build = Callable[[Chassis], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServiceApp:
    """One service to start. name: "trainer". build: registers its servicers and hooks on the chassis."""

    name: str
    settings: ServiceSettings
    build: Build


def run(
    name: str,
    settings_class: type[S],
    build: Callable[[Chassis, S], Awaitable[None]],
    worker: Callable[[S], WorkerSpec] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """A whole service: read settings, start, serve until SIGTERM or SIGINT, drain, and exit the process.

    Args:
        name: as in logs and metrics: "trainer".
        settings_class: read from flags, environment and file.
        build: `async def build(chassis, settings)`; registers servicers with `chassis.add`.
        worker: the model worker to spawn; None for a service without a model.
        argv: flags; the process's own by default.
    """
    flags = sys.argv[1:] if argv is None else argv
    if "--help" in flags or "-h" in flags:
        print_help(settings_class)
        return
    try:
        settings = settings_class.load(flags)
    except StartupError as error:
        sys.exit(f"moontune {name}: {error}")

    async def start(chassis: Chassis) -> None:
        await build(chassis, settings)

    serve([ServiceApp(name, settings, start)], worker(settings) if worker else None)


def serve(apps: Sequence[ServiceApp], worker: WorkerSpec | None = None) -> None:
    """Serve one or more services over one model worker until SIGTERM or SIGINT; exits with 1 where they cannot start.

    A second signal ends the drain at once.
    """
    settings = apps[0].settings
    logs = LogSettings("+".join(app.name for app in apps), settings.log_level, settings.log_format)
    configure_logs(logs)
    for app in apps:
        log.info("settings", service=app.name, **app.settings.shown())
    try:
        asyncio.run(_serve(apps, worker, logs))
    except (StartupError, ComponentFailure, WorkerGone, MoontuneError) as error:
        sys.exit(f"moontune {logs.service}: {error}")


async def _serve(apps: Sequence[ServiceApp], worker: WorkerSpec | None, logs: LogSettings) -> None:
    stop, ready = asyncio.Event(), asyncio.Event()
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()
    assert serving is not None

    def signalled() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: leave at once, the worker follows when its pipe ends
        stop.set()
        if not ready.is_set():
            serving.cancel()  # a base that is still loading is not waited for

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        async with opened(apps, worker, logs) as chassis:
            ready.set()
            await stop.wait()
            await asyncio.gather(*(each.drain() for each in chassis))
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        log.info("stopped before it was ready")


@contextlib.asynccontextmanager
async def opened(
    apps: Sequence[ServiceApp], worker: WorkerSpec | None = None, logs: LogSettings | None = None
) -> AsyncGenerator[list[Chassis], None]:
    """The services, listening and ready, for the length of a `with`; tests use it with port 0.

    Ports open first (health answers NOT_SERVING), then the worker loads its base.

    Raises:
        StartupError: a port or a setting cannot be used. What loading the base raised.
    """
    model = ModelWorker(worker, logs=logs) if worker else None
    started: list[Chassis] = []
    try:
        for app in apps:
            keys = await _keys(app.settings)
            audit = None if keys is None else keys.audit
            chassis = Chassis(app.name, app.settings, model, _authenticator(app.settings, keys), audit)
            if keys is not None:
                chassis.on_stop(partial(asyncio.to_thread, keys.close))
            started.append(chassis)
            await app.build(chassis)
            await chassis.open()
        if model is not None:
            await model.start()
        yield started
    finally:
        for chassis in started:
            await chassis.close()
        if model is not None:
            await model.stop()


async def _keys(settings: ServiceSettings) -> KeyStore | None:
    return await asyncio.to_thread(KeyStore, settings.keys_database) if settings.keys_database else None


def _authenticator(settings: ServiceSettings, keys: KeyStore | None) -> Authenticator:
    return Authenticator(keys, settings.internal_token.get_secret_value() if settings.internal_token else None)
