"""The worker's side of the pipe: loads the base, builds the components, runs calls on their threads.

Runs in the spawned process only. It exits at once when the front goes away (the pipe ends), and ignores SIGINT and
SIGTERM, so that a drain can finish the calls that are under way.
"""

import contextlib
import importlib
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import structlog

from moontune.errors import Cancelled, DeadlineExceeded, MoontuneError
from moontune.serving.worker_protocol import (
    Call,
    Cancel,
    ComponentFailure,
    Done,
    Failed,
    Item,
    Order,
    Raised,
    Ready,
    Stop,
    WorkerSpec,
)
from moontune.telemetry.logs import LogSettings, configure_logs


class Outbox:
    """Sends replies from any thread, one at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Pickle and send; raises what pickling raises. A front that is gone is not an error here."""
        data = ForkingPickler.dumps(message)
        with self._lock, contextlib.suppress(OSError):
            self._connection.send_bytes(data)


class RunningCall:
    """The worker's `CallContext`: a call, whether it is cancelled, and the way back."""

    def __init__(self, call: Call, outbox: Outbox) -> None:
        self.call = call
        self.deadline = None if call.remaining_s is None else time.monotonic() + call.remaining_s
        self._outbox = outbox
        self._left = False

    @property
    def call_id(self) -> int:
        """Unique in this worker's life."""
        return self.call.id

    @property
    def request_id(self) -> str:
        """Of the rpc behind this call."""
        return self.call.request_id

    def leave(self) -> None:
        """The caller is gone."""
        self._left = True

    def cancelled(self) -> bool:
        """Whether the caller left or its deadline passed."""
        return self._left or (self.deadline is not None and time.monotonic() >= self.deadline)

    def remaining_s(self) -> float | None:
        """Seconds to the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def emit(self, item: object) -> None:
        """Send one item to the caller."""
        if not self._left:
            self._outbox.send(Item(self.call.id, item))

    def give_up(self) -> MoontuneError:
        """The error of a call that was cancelled before it began."""
        return Cancelled("the caller left before the call began") if self._left else DeadlineExceeded("deadline passed")


Lane = queue.SimpleQueue[RunningCall | None]


class ComponentHost:
    """The components, their threads and the calls under way."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._components: dict[str, Any] = {}
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._threads: list[tuple[threading.Thread, Lane]] = []
        self._running: dict[int, RunningCall] = {}
        self.stopped = threading.Event()

    def open(self, components: Mapping[str, Any]) -> None:
        """Start each component's threads."""
        self._components = dict(components)
        for name, component in components.items():
            widths = ((False, int(getattr(component, "worker_threads", 1))), (True, 1))
            for immediate, width in widths:
                lane: Lane = queue.SimpleQueue()
                self._lanes[name, immediate] = lane
                for index in range(width):
                    label = f"{name}-{'immediate' if immediate else index}"
                    thread = threading.Thread(target=self._serve, args=(lane,), name=label, daemon=True)
                    self._threads.append((thread, lane))
                    thread.start()

    def take(self, order: Order) -> None:
        """Act on one order from the front; never blocks."""
        match order:
            case Call():
                component = self._components.get(order.component)
                if component is None or not callable(getattr(component, order.method, None)):
                    text = f"the worker has no {order.component}.{order.method}; components: {sorted(self._components)}"
                    self._outbox.send(Raised(order.id, ComponentFailure(text)))
                    return
                running = self._running[order.id] = RunningCall(order, self._outbox)
                immediate = order.method in getattr(component, "immediate", frozenset[str]())
                self._lanes[order.component, immediate].put(running)
            case Cancel():
                if (running := self._running.get(order.id)) is not None:
                    running.leave()
            case Stop():
                self.stopped.set()

    def close(self) -> None:
        """End the threads after the calls that were taken, and close the components."""
        for _, lane in self._threads:
            lane.put(None)
        for thread, _ in self._threads:
            thread.join()
        for component in self._components.values():
            if callable(close := getattr(component, "close", None)):
                close()

    def _serve(self, lane: Lane) -> None:
        while (running := lane.get()) is not None:
            structlog.contextvars.bind_contextvars(request_id=running.request_id)
            try:
                self._run(running)
            finally:
                self._running.pop(running.call_id, None)
                structlog.contextvars.clear_contextvars()

    def _run(self, running: RunningCall) -> None:
        call = running.call
        if running.cancelled():
            self._outbox.send(Raised(call.id, running.give_up()))
            return
        try:
            value = getattr(self._components[call.component], call.method)(running, *call.args)
            self._outbox.send(Done(call.id, value))
        except Exception as error:
            self._outbox.send(Raised(call.id, portable(error)))
        except BaseException:
            traceback.print_exc()
            os._exit(70)  # SystemExit and the like in a component: die so that the front answers WorkerDied


def portable(error: Exception) -> Exception:
    """The error itself when it is of our tree; else its traceback as text, because any other may not unpickle."""
    if isinstance(error, MoontuneError):
        return error
    return ComponentFailure("".join(traceback.format_exception(error)))


def resolve(path: str) -> Callable[..., Any]:
    """The object that "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def main(connection: Connection, spec: WorkerSpec, log_settings: LogSettings) -> None:
    """Run a worker until the front says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(spec.threads)  # before the loader imports torch, which reads them once
    configure_logs(log_settings)
    outbox = Outbox(connection)
    host = ComponentHost(outbox)
    threading.Thread(target=_read, args=(connection, host), name="orders", daemon=True).start()
    try:
        base = resolve(spec.loader)(spec.base, spec.device)
        components = {name: resolve(path)(base, spec.options.get(name)) for name, path in spec.components.items()}
    except Exception as error:
        outbox.send(Failed(portable(error)))
        return
    host.open(components)
    outbox.send(Ready(_facts(base)))
    host.stopped.wait()
    host.close()


def _facts(base: object) -> dict[str, str]:
    facts = {name: getattr(base, name, None) for name in ("name", "digest", "device")}
    return {name: str(value) for name, value in facts.items() if value is not None}


def _read(connection: Connection, host: ComponentHost) -> None:
    while True:
        try:
            order = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # the front is gone; nobody is left to answer
        except Exception:
            traceback.print_exc()
            os._exit(70)  # whose order it was cannot be told: die so that the front answers WorkerDied
        host.take(order)
