"""Work that outlives its caller.

Moondream's client gives up on `/rollouts` after 60 s and on `/train_step` after 900 s, and sends the same body again.
Neither may run twice or be lost:

- `JoinedWork` (train_step): work has a name (the request id); a second request of that name waits for the first's.
- `HeldResults` (rollouts): work goes on when its caller leaves, and its result waits for the next identical body. An
  identical body whose first caller is still connected is a new request.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class JoinedWork(Generic[T]):
    """Work in progress by name; nothing is kept once it is done."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[T]] = {}

    def start_or_join(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The task of that name, started unless it runs. Await it through `asyncio.shield`."""
        task = self._running.get(name)
        if task is None:
            task = asyncio.create_task(work(), name=f"train-step {name[:16]}")
            self._running[name] = task
            task.add_done_callback(lambda done: self._forget(name, done))
        return task

    async def close(self) -> None:
        """Cancel what runs."""
        await _cancel_all(list(self._running.values()))

    def _forget(self, name: str, done: "asyncio.Task[T]") -> None:
        self._running.pop(name, None)
        if not done.cancelled():
            done.exception()  # marks it as seen where every caller has gone


class HeldResults(Generic[T]):
    """Work whose caller left, by body digest, for `held_s` after it is done."""

    def __init__(self, held_s: float) -> None:
        self._held_s = held_s
        self._held: dict[str, list[asyncio.Task[T]]] = {}
        self._expiry: dict[asyncio.Task[T], float] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def take_or_start(self, digest: str, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Work of this body that lost its caller, the oldest first; else new work. Await it through shield."""
        self._drop_expired()
        if waiting := self._held.get(digest):
            task = waiting.pop(0)
            if not waiting:
                del self._held[digest]
            self._expiry.pop(task, None)
            return task
        task = asyncio.create_task(work(), name=f"rollouts {digest[:16]}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def hold(self, digest: str, task: "asyncio.Task[T]") -> None:
        """Keep work whose caller left. A failure is not worth keeping: the next request tries anew."""
        if task.done() and (task.cancelled() or task.exception() is not None):
            return
        self._held.setdefault(digest, []).append(task)
        self._expiry[task] = time.monotonic() + self._held_s if task.done() else float("inf")

    @property
    def held(self) -> int:
        """How many results wait for their caller."""
        self._drop_expired()
        return sum(len(tasks) for tasks in self._held.values())

    async def close(self) -> None:
        """Cancel what runs, forget what is held."""
        self._held.clear()
        await _cancel_all(list(self._tasks))

    def _done(self, task: "asyncio.Task[T]") -> None:
        self._tasks.discard(task)
        if task in self._expiry:
            self._expiry[task] = time.monotonic() + self._held_s
        if task.cancelled() or task.exception() is not None:
            self._expiry[task] = 0.0  # gone at the next look

    def _drop_expired(self) -> None:
        now = time.monotonic()
        expired = {task for task, until in self._expiry.items() if until <= now}
        for task in expired:
            del self._expiry[task]
        for digest in [digest for digest, tasks in self._held.items() if expired.intersection(tasks)]:
            self._held[digest] = [task for task in self._held[digest] if task not in expired]
            if not self._held[digest]:
                del self._held[digest]


async def _cancel_all(tasks: "list[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
