"""A proxy between a caller and the gateway that cuts connections where a test says.

After a cut the gateway's side is reset, and the caller's stays open and silent, as behind a load balancer that has lost
its backend: the caller finds out by its own timeout.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import StrEnum


class Cut(StrEnum):
    """Where an attempt's connection ends."""

    NEVER = "never"
    BEFORE = "before the response, once the request has arrived"
    DURING = "after the response's head"
    INSIDE = "inside the response's body"


class CuttingProxy:
    """Takes one action for each connection with a watched path.

    actions: (whether the held engine is let go once the request is through, where to cut). With none left, the engine
    is let go and the connection relayed.
    """

    def __init__(self, port: int, watched: str, release: Callable[[], None], arrived: Callable[[], Awaitable[None]]):
        """arrived: returns once the gateway has the request. release: lets the engine go on."""
        self._port, self._watched, self._release, self._arrived = port, watched.encode(), release, arrived
        self.actions: deque[tuple[bool, Cut]] = deque()
        self.attempts = 0
        self.open: set[asyncio.StreamReader] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: urllib opens a new one for each request."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split()[1]) for line in head.splitlines() if b"ength:" in line), 0)
        body = await reader.readexactly(length)
        release, cut = (True, Cut.NEVER)
        if self._watched in head.split(b"\r\n")[0]:
            self.attempts += 1
            release, cut = self.actions.popleft() if self.actions else (True, Cut.NEVER)
        await self._settled(reader)
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._port)
        back_writer.write(head + body)
        await back_writer.drain()
        await self._arrived()
        if release:
            self._release()
        try:
            await self._answer(back_reader, writer, cut)
        finally:
            reset(back_writer)
        if cut is not Cut.NEVER:
            await reader.read()  # until the caller gives up
        writer.close()

    async def _settled(self, reader: asyncio.StreamReader) -> None:
        """Wait until the connections that the caller has closed are closed towards the gateway too.

        A retry that overtakes the end of the attempt before it is a new request by design.
        """
        while any(other.at_eof() for other in self.open - {reader}):  # noqa: ASYNC110  (streams have no event for it)
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)

    async def _answer(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut) -> None:
        if cut is Cut.BEFORE:
            return
        head = await back.readuntil(b"\r\n\r\n")
        if cut is Cut.INSIDE:
            head += await back.read(5)
        writer.write(head)
        if cut in (Cut.DURING, Cut.INSIDE):
            return
        while piece := await back.read(65536):
            writer.write(piece)
            await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST rather than FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def listening(proxy: CuttingProxy) -> AsyncGenerator[int]:
    """The proxy's port."""
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        proxy.open.add(reader)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await _until_left(proxy.serve(reader, writer), reader, writer)
        finally:
            proxy.open.discard(reader)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_left(work, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do the work until the caller closes its side; then the gateway's is reset too, by the work's own end."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=0.01)
        if reader.at_eof():
            task.cancel()
            break
    await asyncio.gather(task, return_exceptions=True)
    writer.close()
