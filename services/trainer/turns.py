"""One mutation at a time per finetune, each run to its end; other finetunes do not wait. Its end can be watched."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Turns:
    """Locks by finetune id, made when needed and dropped when nobody waits."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._users: dict[tuple[str, str], int] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @asynccontextmanager
    async def of(self, finetune_id: str, part: str = "") -> AsyncGenerator[None]:
        """Hold the finetune for the block; callers are served in order of arrival.

        part: what of it is held; changes of different parts do not wait for each other. "" is its weights.
        """
        key = finetune_id, part
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
            for ended in self._watchers.get(finetune_id, ()):
                ended.set()

    @contextmanager
    def ends(self, finetune_id: str) -> Generator[asyncio.Event]:
        """An event that is set at the end of each turn of this finetune; who waits clears it before it looks."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(finetune_id, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(finetune_id, None)

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return sum(len(events) for events in self._watchers.values())


async def uninterrupted(
    work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Run blocking work on a thread to its end even if the caller leaves meanwhile; only then tell of the leaving.

    A commit that goes on while its turn has been given to the next call would be half-seen.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
