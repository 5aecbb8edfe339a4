"""The real services, started by `moontune up` on free ports and stopped again."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from moontune.cli.stack import probe

START_S = 180.0
STOP_S = 90.0
OFFSETS = range(1, 6)


@dataclass(frozen=True, slots=True)
class Stack:
    """Running services. jobs: host:port of the jobs service. gateway: its URL. data_dir: their data folder."""

    jobs: str
    gateway: str
    data_dir: Path


@contextlib.contextmanager
def running(base: str, data_dir: Path, *, without: tuple[str, ...] = ()) -> Generator[Stack, None, None]:
    """`moontune up` for the length of a `with`; services with a model share one process and one copy of the base."""
    port_base, gateway_port = _free_ports()
    together = [service for service in ("rollout", "trainer", "inference") if service not in without]
    options = {
        "--base": base,
        "--data-dir": str(data_dir),
        "--port-base": str(port_base),
        "--gateway-port": str(gateway_port),
        "--colocate": ",".join(together),
        "--without": ",".join(without),
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "up.log"
    command = [sys.executable, "-m", "moontune.cli", "up", *(part for option in options.items() for part in option)]
    # Tensors are small here: a second thread in one operation costs more than it gives.
    environment = {"OMP_NUM_THREADS": "1", "MOONTUNE_JOBS_RUNNING_MAX": "2", **os.environ}
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)  # noqa: S603  (our own)
    try:
        needed = {"rollout", "reward", "trainer", "inference", "jobs"} - set(without)
        _wait_ready(process, f"http://127.0.0.1:{gateway_port}", needed, log)
        yield Stack(f"127.0.0.1:{port_base + 5}", f"http://127.0.0.1:{gateway_port}", data_dir)
    finally:
        _stop(process)


def _wait_ready(process: "subprocess.Popen[bytes]", gateway: str, needed: set[str], log: Path) -> None:
    ends = time.monotonic() + START_S
    while not asyncio.run(probe.http_ready(gateway, needed)):
        if process.poll() is not None or time.monotonic() > ends:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise SystemExit(f"the services did not start; {log} ends with:\n{tail}")
        time.sleep(0.2)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports() -> tuple[int, int]:
    """(port base, gateway port) such that theirs and the metrics' 1000 above are all free now."""
    for start in range(21_000, 60_000, 211):
        wanted = [start + offset for offset in (*OFFSETS, 10)]
        if all(_is_free(port) for each in wanted for port in (each, each + 1000)):
            return start, start + 10
    raise SystemExit("no free ports between 21000 and 60000")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
