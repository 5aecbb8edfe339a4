"""Callers that hold a connection without ending their request."""

import asyncio
import contextlib
import time

from services.gateway import gate, http_protocol
from tests.services.gateway.conftest import gateway


async def ends(reader, within_s=20.0):
    """What came until the gateway closed the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(within_s):
            while piece := await reader.read(4096):
                came += piece
    return came


async def test_a_head_that_never_ends_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.3)
    async with gateway(tmp_path) as running:
        for start in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(start)
            assert await ends(reader) == b""
            writer.close()


async def test_a_second_head_on_the_same_connection_has_its_own_time(tmp_path, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.5)
    head = "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    async with gateway(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for _ in range(3):
            writer.write(f"{head}\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in answer
            length = next(int(line.split()[1]) for line in answer.splitlines() if b"content-length" in line.lower())
            await reader.readexactly(length)
            await asyncio.sleep(0.3)  # idle between requests: the keep-alive time counts, not the head's
        writer.write(head.encode())
        rest = await ends(reader)
        assert rest.count(b" 200 ") == 0
        writer.close()


async def test_a_body_that_drips_is_refused_and_not_with_a_status_that_is_retried(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "BODY_GRACE_S", 0.4)
    head = (
        b"POST /v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    )
    for path in (b"/v1/query", b"/v1/tuning/train_step"):
        async with gateway(tmp_path) as running:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(head.replace(b"/v1/query", path) + b'{"')
            started = time.monotonic()
            answer = asyncio.ensure_future(ends(reader))
            while not answer.done() and time.monotonic() - started < 20.0:
                writer.write(b"a")
                await asyncio.sleep(0.05)
            assert (await answer).split()[1] == b"400"
            writer.close()


async def test_a_flood_of_headers_is_refused(running):
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    with contextlib.suppress(ConnectionError):
        for index in range(4000):
            writer.write(b"X-%d: %s\r\n" % (index, b"a" * 64))
        await writer.drain()
    answer = await ends(reader)
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    writer.close()
    assert (await running.client.get("/health")).status_code == 200
