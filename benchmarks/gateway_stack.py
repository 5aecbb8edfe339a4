"""A whole moontune of its own for the gateway's benchmark, and a bare HTTP caller."""

import asyncio
import base64
import contextlib
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from PIL import Image as PillowImage
from PIL import ImageDraw

from moontune.values.image import Image


@dataclass(frozen=True, slots=True)
class Stack:
    """http: port of the gateway. first: the services' ports begin after it. process: of `moontune up`."""

    http: int
    first: int
    process: psutil.Process

    def gateway(self) -> psutil.Process:
        """The gateway's own process."""
        for child in self.process.children(recursive=True):
            if "services.gateway" in " ".join(child.cmdline()):
                return child
        raise RuntimeError("the gateway has no process of its own")


@contextlib.contextmanager
def stack(base: str) -> Iterator[Stack]:
    """`moontune up` on ports and in a folder of its own, ready, for the length of a `with`."""
    first = 20_000 + 200 * random.SystemRandom().randrange(50)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "moontune"), "up", "--base", base, "--data-dir", folder]
        command += ["--gateway-port", str(first + 100), "--port-base", str(first)]
        command += ["--colocate", "rollout,trainer,inference"]
        with (Path(folder) / "up.log").open("wb") as log:
            started = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
            try:
                _wait_ready(f"http://127.0.0.1:{first + 100}/health", started)
                yield Stack(first + 100, first, psutil.Process(started.pid))
            finally:
                started.send_signal(signal.SIGINT)
                started.wait(60)


def _wait_ready(url: str, started: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        if started.poll() is not None:
            raise RuntimeError("moontune up ended before it was ready")
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url) as answer:  # noqa: S310
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError("moontune up was not ready in 120 s")


def picture(index: int = 0) -> Image:
    """A red square on white as a 64-pixel PNG."""
    canvas = PillowImage.new("RGB", (64, 64), "white")
    ImageDraw.Draw(canvas).rectangle((8 + index % 24, 12, 28 + index % 24, 32), fill="red")
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return Image.of(file.getvalue())


def image_url(image: Image) -> str:
    """As callers send it."""
    assert image.data is not None
    return "data:image/png;base64," + base64.b64encode(image.data).decode()


class HttpCaller:
    """One kept-alive connection. It does nothing that a benchmark would measure instead of the gateway."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: object) -> tuple[int, bytes]:
        """Status and body of the answer."""
        payload = json.dumps(body).encode()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
        return int(lines[0].split()[1]), await reader.readexactly(length)

    async def stream(self, path: str, body: object, pieces: int) -> bytes:
        """A streamed answer, on a connection of its own that is dropped after so many reads; 0 reads to the end."""
        payload = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        came = b""
        while piece := await reader.read(4096):
            came += piece
            pieces -= 1
            if pieces == 0:
                break
        writer.transport.abort()
        return came

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
