"""The front's side of one worker process: spawn it, carry messages by two threads, tell when it is dead.

A link lives as long as its process; `moontune.serving.worker` makes a new one after a death. The event loop never
blocks on the pipe: a writer thread pickles and sends, a reader thread receives and unpickles.
"""

import asyncio
import contextlib
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler

from moontune.serving import worker_process
from moontune.serving.worker_protocol import (
    Call,
    ComponentFailure,
    Failed,
    Order,
    Raised,
    Ready,
    Reply,
    Stop,
    WorkerSpec,
)
from moontune.telemetry.logs import LogSettings, get_logger

STOP_TIMEOUT_S = 10.0
REAP_TIMEOUT_S = 10.0
UNKNOWN_EXIT = -1
"""In place of the exit code of a process that somebody else's code has reaped."""
NEVER_STARTED = -1
"""In place of the exit code of a process that the system would not start."""

log = get_logger(__name__)


class WorkerGone(Exception):
    """The process ended before it was ready, or was never started."""


class WorkerLink:
    """One spawned worker process.

    ready: resolves to the base's facts, or raises what loading raised, or WorkerGone.
    dead: resolves to the exit code once the process is gone; every message that it sent was delivered before.
    """

    def __init__(self, spec: WorkerSpec, logs: LogSettings, deliver: Callable[[Reply], None]) -> None:
        """Prepare; `deliver` is called in the event loop for each reply."""
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self.ready: asyncio.Future[dict[str, str]] = self._loop.create_future()
        self.dead: asyncio.Future[int] = self._loop.create_future()
        context = multiprocessing.get_context("spawn")
        self._connection, self._far_end = context.Pipe(duplex=True)
        self._process: SpawnProcess = context.Process(
            target=worker_process.main, args=(self._far_end, spec, logs), name="moontune-worker", daemon=True
        )
        self._pid: int | None = None

    async def spawn(self) -> None:
        """Start the process and the threads; where the system refuses a process, `ready` and `dead` tell."""
        try:
            await asyncio.to_thread(self._process.start)
        except OSError as error:
            self._connection.close()
            self._far_end.close()
            self._end(f"the worker process cannot be started: {error}", NEVER_STARTED)
            return
        self._pid = self._process.pid
        self._far_end.close()  # so that the pipe ends when the worker does
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"worker-{target.__name__}", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The worker's process id; None before `spawn`."""
        return self._pid

    def send(self, order: Order) -> None:
        """Queue an order; never blocks."""
        self._orders.put(order)

    async def stop(self) -> None:
        """Ask the worker to finish what it took and exit; kill it when that takes more than STOP_TIMEOUT_S."""
        self.send(Stop())
        try:
            await asyncio.wait_for(asyncio.shield(self.dead), STOP_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            await self.dead

    def kill(self) -> None:
        """End the process now, if it lives."""
        with contextlib.suppress(AttributeError):  # never started
            self._process.kill()

    def _read(self) -> None:
        connection: Connection = self._connection
        try:
            while True:
                self._post(self._receive, connection.recv())
        except (EOFError, OSError):
            pass
        except Exception as error:  # whose reply it was cannot be told: fail them all rather than let one wait for ever
            log.error("a reply of the worker does not unpickle", exc_info=error)
            self._process.kill()
        if not wait([self._process.sentinel], STOP_TIMEOUT_S):  # it closed its end of the pipe and lives on: useless
            self._process.kill()
            wait([self._process.sentinel])
        code = self._exit_code()
        self._orders.put(None)
        self._post(partial(self._end, f"the worker ended with exit code {code} before it was ready"), code)

    def _write(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                data = ForkingPickler.dumps(order)
            except Exception as error:
                if isinstance(order, Call):
                    self._post(self._receive, Raised(order.id, ComponentFailure(f"arguments do not pickle: {error!r}")))
                continue
            with contextlib.suppress(OSError):  # the reader notices the death
                self._connection.send_bytes(data)
        self._connection.close()

    def _exit_code(self) -> int:
        """The code of a process that has ended.

        Every start of another process polls all children, from whatever thread: when such a poll reaps ours first,
        `exitcode` is None until that thread has written the code down.
        """
        give_up_at = time.monotonic() + REAP_TIMEOUT_S
        while (code := self._process.exitcode) is None and time.monotonic() < give_up_at:
            time.sleep(0.001)
        return UNKNOWN_EXIT if code is None else code

    def _post(self, act: Callable[..., None], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(act, argument)

    def _receive(self, message: object) -> None:
        match message:
            case Ready(facts):
                if not self.ready.done():
                    self.ready.set_result(dict(facts))
            case Failed(error):
                if not self.ready.done():
                    self.ready.set_exception(error)
            case _:
                self._deliver(message)  # pyright: ignore[reportArgumentType]  # the worker sends nothing else

    def _end(self, reason: str, code: int) -> None:
        if not self.ready.done():
            self.ready.set_exception(WorkerGone(reason))
            self.ready.exception()  # retrieved: nobody may be waiting for it
        if not self.dead.done():
            self.dead.set_result(code)
