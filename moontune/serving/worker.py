"""The model worker as a service sees it: call its components, stream from them, survive its death.

The front process stays free of torch; the worker is spawned, holds the base once, and runs each component on its
own thread. When it dies every pending call raises `WorkerDied`, nobody is told ready, and it is started again with
backoff while the service's port stays open.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moontune.errors import DeadlineExceeded, MoontuneError, Unavailable, WorkerDied
from moontune.serving.call import current_call
from moontune.serving.worker_link import WorkerGone, WorkerLink
from moontune.serving.worker_protocol import Call, Cancel, Done, Item, Raised, Reply, WorkerSpec
from moontune.telemetry.logs import LogSettings, get_logger

__all__ = ["ModelWorker", "RestartPolicy", "WorkerSpec"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How a dead worker comes back.

    The wait before the n-th restart is first_s * 2^(n-1), at most most_s; n starts again after steady_s of life.
    patience_s: how long a call waits for a worker that is loading before it answers Unavailable.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    steady_s: float = 60.0
    patience_s: float = 10.0

    def wait_s(self, deaths: int) -> float:
        """Seconds before the restart after this many deaths in a row (1 or more)."""
        return min(self.most_s, self.first_s * 2.0 ** min(deaths - 1, 16))


class ModelWorker:
    """One spawned worker process, started again when it dies."""

    def __init__(
        self, spec: WorkerSpec, *, restart: RestartPolicy | None = None, logs: LogSettings | None = None
    ) -> None:
        self.spec = spec
        self._policy = restart or RestartPolicy()
        self._logs = logs or LogSettings()
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Queue[Reply]] = {}
        self._link: WorkerLink | None = None
        self._up = asyncio.Event()
        self._listeners: list[Callable[[bool], None]] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._facts: Mapping[str, str] = {}
        self._stopping = False
        self._retry_at = 0.0
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether the base is loaded and calls can be taken."""
        return self._up.is_set()

    @property
    def facts(self) -> Mapping[str, str]:
        """name, digest and device of the loaded base; empty before the first start."""
        return self._facts

    @property
    def pid(self) -> int | None:
        """The worker's process id, while one lives."""
        return self._link.pid if self._link else None

    def watch(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(ready)` on each change of readiness, in the event loop."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Spawn the worker and wait until its base is loaded.

        Raises what loading raised (a MoontuneError, or a ComponentFailure with the worker's traceback), or
        WorkerGone when the process ended by itself.
        """
        link = await self._spawn()
        try:
            await self._opened(link)
        except BaseException:
            link.kill()
            raise
        self._supervisor = asyncio.create_task(self._supervise(link), name="worker-supervisor")

    async def stop(self) -> None:
        """Let the worker finish what it took, then end it. Calls that are still pending raise WorkerDied."""
        self._stopping = True
        if self._supervisor is not None:
            if self._link is not None:
                await self._link.stop()
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
            if self._link is not None:
                self._link.kill()  # one that was being started when we stopped
        self._set_ready(ready=False)

    async def call(self, component: str, method: str, *args: object) -> Any:
        """Run a component's method and return what it returned.

        The deadline and the request id of the rpc that this task answers travel along. When this task is
        cancelled or the deadline passes, the component's `ctx.cancelled()` turns true.

        Raises:
            WorkerDied: the worker died during the call. Unavailable: it is not loaded yet.
            DeadlineExceeded: the rpc's deadline passed. Any MoontuneError that the method raised.
        """
        async with contextlib.aclosing(self._replies(component, method, args)) as replies:
            async for reply in replies:
                if isinstance(reply, Done):
                    return reply.value
        raise AssertionError("replies end with Done or raise")

    async def stream(self, component: str, method: str, *args: object) -> AsyncGenerator[Any, None]:
        """Run a component's method and yield what it emits, in order; its return value is dropped.

        Leaving the iteration cancels the call. Close the iterator (`contextlib.aclosing`) when leaving early.
        """
        async with contextlib.aclosing(self._replies(component, method, args)) as replies:
            async for reply in replies:
                if isinstance(reply, Item):
                    yield reply.value

    async def _replies(
        self, component: str, method: str, args: tuple[object, ...]
    ) -> AsyncGenerator[Item | Done, None]:
        rpc = current_call()
        deadline = None if rpc is None else rpc.deadline
        link = await self._wait_ready(deadline)
        remaining_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        call = Call(next(self._ids), component, method, args, remaining_s, rpc.request_id if rpc else "")
        inbox = self._pending[call.id] = asyncio.Queue()
        link.send(call)
        ended = False
        try:
            while not ended:
                reply = await self._next(inbox, deadline)
                ended = not isinstance(reply, Item)
                if isinstance(reply, Raised):
                    raise reply.error
                yield reply
        finally:
            del self._pending[call.id]
            if not ended:
                link.send(Cancel(call.id))

    async def _next(self, inbox: asyncio.Queue[Reply], deadline: float | None) -> Reply:
        if deadline is None:
            return await inbox.get()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await inbox.get()
        except TimeoutError:
            raise DeadlineExceeded("the call's deadline passed before the model worker answered") from None

    async def _wait_ready(self, deadline: float | None) -> WorkerLink:
        if not self._up.is_set():
            wait_s = self._policy.patience_s
            if deadline is not None:
                wait_s = min(wait_s, max(0.0, deadline - time.monotonic()))
            try:
                await asyncio.wait_for(self._up.wait(), 0.0 if self._stopping else wait_s)
            except TimeoutError:
                raise Unavailable("the model worker is not loaded yet; try again", retry_after_s=1.0) from None
        assert self._link is not None
        return self._link

    async def _spawn(self) -> WorkerLink:
        link = self._link = WorkerLink(self.spec, self._logs, self._deliver)
        await link.spawn()
        return link

    async def _opened(self, link: WorkerLink) -> None:
        started = time.monotonic()
        self._facts = await link.ready
        log.info("worker ready", pid=link.pid, seconds=round(time.monotonic() - started, 3), **self._facts)
        self._set_ready(ready=True)

    async def _supervise(self, link: WorkerLink) -> None:
        deaths = 0
        while True:
            opened = time.monotonic()
            code = await link.dead
            self._set_ready(ready=False)
            deaths = 1 if time.monotonic() - opened > self._policy.steady_s else deaths + 1
            wait_s = self._policy.wait_s(deaths)
            self._fail_pending(code, wait_s)
            if self._stopping:
                return
            log.error("worker died", exit_code=code, restart_in_s=wait_s)
            await asyncio.sleep(wait_s)
            self.restarts += 1
            link = await self._spawn()
            try:
                await self._opened(link)
            except (MoontuneError, RuntimeError, WorkerGone) as error:
                log.error("worker does not start", error=str(error))

    def _deliver(self, reply: Reply) -> None:
        if (inbox := self._pending.get(reply.id)) is not None:
            inbox.put_nowait(reply)

    def _fail_pending(self, code: int, retry_after_s: float) -> None:
        for call_id, inbox in self._pending.items():
            died = WorkerDied(
                f"the model worker died (exit code {code}) during the call; it is being started again",
                retry_after_s=retry_after_s,
            )
            inbox.put_nowait(Raised(call_id, died))

    def _set_ready(self, *, ready: bool) -> None:
        if ready == self._up.is_set():
            return
        if ready:
            self._up.set()
        else:
            self._up.clear()
        for listener in self._listeners:
            listener(ready)
