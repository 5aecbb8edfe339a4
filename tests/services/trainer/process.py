"""The trainer as its users run it: `python -m services.trainer` in a process group of its own, killable for real."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]


class TrainerProcess:
    """Front and model worker over one data folder; start, kill -9, start again."""

    def __init__(self, base: Path, data_dir: Path, module: str = "services.trainer", **environment: str) -> None:
        self.base, self.data_dir, self.module, self.environment = base, data_dir, module, environment
        self.settings: dict[str, str] = {}
        self.wrapper: tuple[str, ...] = ()
        self.port = self.metrics_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, **environment: str) -> "TrainerProcess":
        self.port, self.metrics_port = _free_port(), _free_port()
        flags = {
            "port": self.port,
            "metrics-port": self.metrics_port,
            "base": self.base,
            "device": "cpu",
            "data-dir": self.data_dir,
            "log-format": "json",
            **self.settings,
        }
        self.data_dir.mkdir(parents=True, exist_ok=True)
        log = (self.data_dir / "log").open("ab")
        self._process = subprocess.Popen(
            [*self.wrapper, sys.executable, "-m", self.module, *(f"--{name}={value}" for name, value in flags.items())],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self._wait_ready()
        return self

    @property
    def pids(self) -> list[int]:
        """Of the front and of its children, the model worker among them."""
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [self._process.pid, *(int(pid) for path in tasks for pid in path.read_text().split())]

    def kill(self) -> None:
        """kill -9 of front and worker at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=30)
        self._process = None
        return code

    def _wait_ready(self, seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < end:
                assert self._process is not None
                if self._process.poll() is not None:
                    raise RuntimeError((self.data_dir / "log").read_text()[-4000:])
                try:
                    status = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True).status
                except grpc.RpcError:
                    status = 0
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                time.sleep(0.05)
        self.kill()
        raise TimeoutError((self.data_dir / "log").read_text()[-4000:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
