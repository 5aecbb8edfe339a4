"""One service process: started with its log in a file, watched, asked to drain, and killed if it will not."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Listener:
    """One service's gRPC port (http=True: the gateway's HTTP port) on loopback.

    needs: of the gateway, the services that must be ready behind it for it to be so.
    """

    service: str
    port: int
    http: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run: `python <arguments>` in `folder` with `environment` on top of ours.

    listeners: the services in it (several when colocated). log: the file that its output is appended to.
    wave: processes of a higher wave stop before those of a lower one (callers before those they call).
    """

    name: str
    arguments: tuple[str, ...]
    listeners: tuple[Listener, ...]
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    wave: int = 0


class ServiceProcess:
    """A running process of a spec."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self._process = process

    @classmethod
    async def start(cls, spec: ProcessSpec) -> "ServiceProcess":
        """Start it in a session of its own, so that Ctrl-C in the terminal reaches us alone and we drain in order."""
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *spec.arguments,
                cwd=spec.folder,
                env={**os.environ, **spec.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        return cls(spec, process)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, which drains it; SIGKILL to its whole session after `grace_s`."""
        if self.exit_code is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self._process.wait()

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for an error message."""
        try:
            text = self.spec.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-count:])


def _end_with_parent() -> None:
    """In the child: ask Linux for SIGTERM when `moontune up` dies, by kill -9 too, so that no port stays taken."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
