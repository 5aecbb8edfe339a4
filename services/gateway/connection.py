"""The caller's connection: has it gone, and did an answer reach it.

A caller that leaves is seen as `http.disconnect` on the ASGI channel. After the body has been read, that is the only
message that can still come.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moontune.errors import Cancelled

T = TypeVar("T")

FLUSH_S = 0.002
"""Pause before the last byte, for a reset that is already on its way to be seen."""

_TURNS = 16
"""Turns of the event loop after that pause: a loop that was held up must look at its sockets before the last byte."""


class Departure:
    """Watches one request's connection. Use it after the body was read, as nothing else may receive then."""

    def __init__(self, receive: Receive) -> None:
        self._task = asyncio.ensure_future(_disconnected(receive))

    @property
    def seen(self) -> bool:
        """Whether the caller is known to have gone."""
        return self._task.done()

    async def wait(self) -> None:
        """Return when the caller goes."""
        await asyncio.shield(self._task)

    def stop(self) -> None:
        """Stop watching."""
        self._task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work for as long as the caller stays; cancel it upstream when the caller leaves.

    Raises:
        Cancelled: the caller left first.
    """
    departure = Departure(request.receive)
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(departure.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("the caller left before the answer")
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
        departure.stop()
        await asyncio.gather(task, gone, return_exceptions=True)


async def first_of(task: "asyncio.Task[T]", departure: Departure) -> bool:
    """Wait until the task is done or the caller has gone; whether the task was first, and did not fail.

    The task goes on in either case. Raises what it raised; the caller is watched on only after True.
    """
    gone = asyncio.ensure_future(departure.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        done = task.done()
        if done:
            task.result()
    except BaseException:
        departure.stop()
        raise
    finally:
        gone.cancel()
    return done


class WatchedResponse(Response):
    """A JSON answer that tells afterwards whether its caller was still there when the last byte was written.

    The last byte is held back until the rest is out and the connection was looked at once more: a caller that has not
    got the whole answer has no reason to close, so a connection closed before that byte is a lost answer.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        departure: Departure,
        written: Callable[[bool], Awaitable[None]],
        last_byte: AbstractAsyncContextManager[object] | None = None,
        pause_s: float = FLUSH_S,
    ) -> None:
        """Watch one answer.

        Args:
            content: the answer.
            departure: of the caller.
            written: called once, with True when no disconnect was seen.
            last_byte: held from that byte until `written` has returned.
            pause_s: before the last byte; 0 where a lost answer costs little.
        """
        super().__init__(json.dumps(content, allow_nan=False).encode(), media_type="application/json")
        self._departure = departure
        self._written = written
        self._last_byte = last_byte or nullcontext()
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the answer."""
        body, delivered = bytes(self.body), False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": body[:-1], "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": True})  # returns once that has left
            await asyncio.sleep(self._pause_s)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        except OSError:
            self._departure.stop()
            await self._written(False)
            return
        async with self._last_byte:
            try:
                delivered = not self._departure.seen
                await send({"type": "http.response.body", "body": body[-1:], "more_body": False})
            except OSError:
                delivered = False
            finally:
                self._departure.stop()
                await asyncio.shield(self._written(delivered))
