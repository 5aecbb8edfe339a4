"""The supervisor over real processes: small HTTP servers that answer /health, and programs that fail."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from moontune.cli.stack import probe, supervisor
from moontune.cli.stack.process import Listener, ProcessSpec
from moontune.cli.stack.supervisor import StackFailed, Supervisor

SERVER = """
import http.server, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
def drained(*_):
    print("drained", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, drained)
print("up", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
DEAF = SERVER.replace("drained)", "signal.SIG_IGN)")


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def spec(folder: Path, name: str, program: str = SERVER) -> ProcessSpec:
    port = free_port()
    return ProcessSpec(
        name, ("-c", program, str(port)), (Listener(name, port, http=True),), folder / f"{name}.log", folder
    )


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  (what is waited for is another process)
            await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_crashed_process_is_named_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.1)
    lines: list[str] = []
    specs = [spec(tmp_path, "one"), spec(tmp_path, "two")]
    running = Supervisor(specs, probe.ready, lines.append)
    await running.start(timeout_s=20)
    before = running.processes
    os.kill(before["one"], signal.SIGKILL)
    await until(lambda: "one is back" in lines)
    after = running.processes
    assert "one ended with signal 9" in lines[0]
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]
    await running.stop(grace_s=10)
    assert not any(alive(pid) for pid in after.values())
    assert (tmp_path / "two.log").read_text().split() == ["up", "drained"]


async def test_a_process_that_will_not_drain_is_killed(tmp_path: Path):
    running = Supervisor([spec(tmp_path, "deaf", DEAF)], probe.ready, print)
    await running.start(timeout_s=20)
    pid = running.processes["deaf"]
    await running.stop(grace_s=0.3)
    assert not alive(pid)


async def test_a_process_that_fails_at_start_is_told_with_its_log(tmp_path: Path):
    good = spec(tmp_path, "good")
    bad = spec(tmp_path, "bad", "import sys; sys.exit('the settings are not usable')")
    running = Supervisor([good, bad], probe.ready, print)
    with pytest.raises(StackFailed, match=r"bad ended with exit code 1:\nthe settings are not usable"):
        await running.start(timeout_s=20)
    assert running.processes == {}


async def test_a_process_that_never_gets_ready_is_named(tmp_path: Path):
    running = Supervisor([spec(tmp_path, "slow", "import time; time.sleep(60)")], probe.ready, print)
    with pytest.raises(StackFailed, match="not ready after 1 s: slow"):
        await running.start(timeout_s=1)
