"""Starts the processes, waits until each is ready, restarts what crashes and says so, and stops all in order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from moontune.cli.stack.process import Listener, ProcessSpec, ServiceProcess

POLL_S = 0.2
FIRST_BACKOFF_S, MOST_BACKOFF_S = 1.0, 30.0
STEADY_S = 60.0
"""A process that ran this long starts again from the first backoff."""

Probe = Callable[[Listener], Awaitable[bool]]
Report = Callable[[str], None]


class StackFailed(Exception):
    """A process did not come up; the message has the end of its log."""


class Supervisor:
    """The processes of one `moontune up`.

    probe: whether a listener is ready. report: takes one line for the person watching.
    """

    def __init__(self, specs: Sequence[ProcessSpec], probe: Probe, report: Report) -> None:
        self._specs = tuple(specs)
        self._probe = probe
        self._report = report
        self._running: dict[str, ServiceProcess] = {}
        self._watches: list[asyncio.Task[None]] = []

    @property
    def processes(self) -> dict[str, int]:
        """Name -> process id of what runs now."""
        return {name: process.pid for name, process in self._running.items() if process.exit_code is None}

    async def start(self, timeout_s: float) -> None:
        """Start all; return when every listener is ready. Raises StackFailed, everything stopped, otherwise."""
        try:
            for spec in self._specs:
                self._running[spec.name] = await ServiceProcess.start(spec)
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(self._until_ready(spec) for spec in self._specs))
        except TimeoutError:
            late = [spec.name for spec in self._specs if not await self._is_ready(spec)]
            texts = "\n".join(f"--- {name} ---\n{self._running[name].last_lines()}" for name in late)
            await self.stop(grace_s=5.0)
            raise StackFailed(f"not ready after {timeout_s:.0f} s: {', '.join(late)}\n{texts}") from None
        except (StackFailed, asyncio.CancelledError):
            await self.stop(grace_s=5.0)
            raise
        self._watches = [asyncio.create_task(self._watch(spec)) for spec in self._specs]

    async def stop(self, grace_s: float) -> None:
        """Stop all, wave by wave; each process drains first."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        self._watches = []
        for wave in sorted({spec.wave for spec in self._specs}, reverse=True):
            names = [spec.name for spec in self._specs if spec.wave == wave and spec.name in self._running]
            await asyncio.gather(*(self._running.pop(name).stop(grace_s) for name in names))

    async def _until_ready(self, spec: ProcessSpec) -> None:
        process = self._running[spec.name]
        while not await self._is_ready(spec):
            if process.exit_code is not None:
                raise StackFailed(f"{spec.name} ended with {_ending(process.exit_code)}:\n{process.last_lines()}")
            await asyncio.sleep(POLL_S)

    async def _is_ready(self, spec: ProcessSpec) -> bool:
        return all(await asyncio.gather(*(self._probe(listener) for listener in spec.listeners)))

    async def _watch(self, spec: ProcessSpec) -> None:
        """Start the process again whenever it ends, with a pause that doubles while it keeps ending early."""
        backoff_s = FIRST_BACKOFF_S
        clock = asyncio.get_running_loop()
        while True:
            started = clock.time()
            code = await self._running[spec.name].wait()
            if clock.time() - started >= STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            self._report(
                f"{spec.name} ended with {_ending(code)}; starting it again in {backoff_s:.0f} s. Its log: {spec.log}"
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(MOST_BACKOFF_S, backoff_s * 2)
            self._running[spec.name] = await ServiceProcess.start(spec)
            await self._report_ready(spec)

    async def _report_ready(self, spec: ProcessSpec) -> None:
        while self._running[spec.name].exit_code is None:
            if await self._is_ready(spec):
                self._report(f"{spec.name} is back")
                return
            await asyncio.sleep(POLL_S)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
