"""Answers as server-sent events. The caller's leaving cancels what is still generated."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moontune.errors import MoontuneError
from services.gateway.connection import Departure
from services.gateway.convert import Json
from services.gateway.errors import error_json

SEND_S = 60.0
"""A caller that takes longer to read one event has left."""


class EventStream(Response):
    """`data: <json>` lines of a generator; the generator is closed at the end, whatever ends it."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        """events: whole lines, as `line` makes them."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write events until they end or the caller goes."""
        departure = Departure(receive)
        writing = asyncio.ensure_future(self._write(send))
        gone = asyncio.ensure_future(departure.wait())
        try:
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)
            departure.stop()

    async def _write(self, send: Send) -> None:
        async with contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with contextlib.suppress(OSError, TimeoutError):  # the caller has left
                async for event in self._events:
                    async with asyncio.timeout(SEND_S):
                        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def line(data: Json | str) -> str:
    """One event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def error_line(error: MoontuneError, **fields: str | bool) -> str:
    """The event that ends a stream whose answer failed after its first piece."""
    return line({**error_json(error), **fields})
