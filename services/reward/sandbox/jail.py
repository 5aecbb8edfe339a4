"""One jail from outside: a confined child that grades batches, one at a time.

The child is spawned, never forked: a service with gRPC's threads must not fork. What it answers is data.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from moontune.values.reward_definition import CodeLanguage
from moontune.values.sandbox import SandboxProfile
from services.reward.sandbox.inside import frames
from services.reward.sandbox.limits import SandboxLimits
from services.reward.sandbox.setup import ENVIRONMENT, jail_setup
from services.reward.sandbox.verdict import Verdict, verdict_from_json, verdict_of_failure

GRACE_S = 10.0
"""What a zygote may be late beyond a sample's wall limit before the whole jail is ended; machines get busy."""


class JailBroken(Exception):
    """The jail could not be made, or it no longer answers; layer: the missing one, "" where it is another cause."""

    def __init__(self, why: str, layer: str = "") -> None:
        super().__init__(f"{layer}: {why}" if layer else why)
        self.layer, self.why = layer, why


class Jail:
    """A running jail. layers: what holds it, by name."""

    def __init__(self, process: asyncio.subprocess.Process, limits: SandboxLimits) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._input, self._output = process, process.stdin, process.stdout
        self._limits = limits
        self.layers: Mapping[str, str] = {}

    @property
    def pid(self) -> int:
        """Of the child: the zygote, or bubblewrap around it."""
        return self._process.pid

    @classmethod
    async def start(cls, language: CodeLanguage, profile: SandboxProfile, limits: SandboxLimits) -> "Jail":
        """Spawn one and wait until its walls are up. Raises JailBroken, and what `jail_setup` raises."""
        setup = await asyncio.to_thread(jail_setup, language, profile)
        process = await asyncio.create_subprocess_exec(
            *setup.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(ENVIRONMENT),
            cwd="/",
        )
        jail = cls(process, limits)
        try:
            await jail._greet(setup.frames)
        except BaseException:
            await jail.close()
            raise
        return jail

    async def grade(self, source: str, samples: Sequence[bytes]) -> list[Verdict]:
        """Grade JSON texts of one reward version; one verdict each. Raises JailBroken where the jail itself fails."""
        header = {
            "samples": len(samples),
            "cpu_s": self._limits.cpu_s,
            "wall_s": self._limits.wall_s,
            "memory_bytes": self._limits.memory_bytes,
            "result_bytes": self._limits.result_bytes,
        }
        try:
            await self._send([json.dumps(header).encode(), source.encode(), *samples])
            return await self._verdicts(len(samples))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise JailBroken(f"the sandbox stopped answering ({type(error).__name__})") from error

    async def close(self) -> None:
        """Kill it and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._input.close()
        await self._process.communicate()

    async def _greet(self, setup_frames: Sequence[bytes]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_s):
                await self._send(setup_frames)
                hello = cast("dict[str, Any]", json.loads(await self._frame()))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise JailBroken(await self._last_words(error)) from error
        if "missing" in hello:
            raise JailBroken(str(hello["why"]), str(hello["missing"]))
        self.layers = hello["layers"]

    async def _last_words(self, error: Exception) -> str:
        """What a child that did not start wrote to its error output."""
        assert self._process.stderr is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        said = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
        return f"the child did not start: {said[-1][:300] if said else type(error).__name__}"

    async def _send(self, payloads: Sequence[bytes]) -> None:
        self._input.writelines(frames.LENGTH.pack(len(payload)) + payload for payload in payloads)
        await self._input.drain()

    async def _verdicts(self, count: int) -> list[Verdict]:
        verdicts: list[Verdict] = []
        while len(verdicts) < count:
            async with asyncio.timeout(self._limits.wall_s + GRACE_S):
                answer = await self._frame()
            kind, payload = answer[:1], answer[1:]
            if kind == frames.RESULT:
                verdicts.append(verdict_from_json(payload))
                continue
            verdict = verdict_of_failure(payload.decode(errors="replace"))
            verdicts += [verdict] if kind == frames.FAILURE else [verdict] * (count - len(verdicts))
        return verdicts

    async def _frame(self) -> bytes:
        (length,) = frames.LENGTH.unpack(await self._output.readexactly(frames.LENGTH.size))
        if length > self._limits.result_bytes + 4096:
            raise JailBroken(f"the sandbox sent {length} bytes at once")
        return await self._output.readexactly(length)
