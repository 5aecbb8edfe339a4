"""Runs user code: a few jails for each language, shared fairly, and the truth about what holds them.

Every jail was confined before it saw a batch, and each batch runs in a process forked for it alone. An organisation
never has more than all jails but one, so that slow code of one leaves another's rate.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import structlog

from moontune.errors import SandboxMissing
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.reward_definition import CodeLanguage, UserCode
from moontune.values.sandbox import SandboxLayer, SandboxProfile, SandboxStatus
from services.reward.sandbox.jail import Jail, JailBroken
from services.reward.sandbox.limits import SandboxLimits
from services.reward.sandbox.probe import probe
from services.reward.sandbox.seccomp import SeccompMissing
from services.reward.sandbox.setup import LanguageMissing
from services.reward.sandbox.verdict import Failure, Verdict

BATCH = 64
"""Samples graded in one process."""
LOOK_AGAIN_S = 30.0
"""A sandbox that was found wanting is examined again after so long: the machine may only have been too busy."""

LAYERS = ("user", "no_new_privs", "rlimits", "seccomp", "landlock", "bubblewrap")
_log = structlog.get_logger(__name__)


class Sandbox:
    """Jails of one service under one profile. `status` examines them once; `grade` refuses where a layer is missing."""

    def __init__(
        self, profile: SandboxProfile, limits: SandboxLimits, jails: int, metrics: ServiceMetrics | None = None
    ) -> None:
        """jails: most for each language; each is started when it is first needed."""
        self._profile, self._limits = profile, limits
        self._metrics = metrics or ServiceMetrics()
        self._idle: dict[CodeLanguage, list[Jail]] = defaultdict(list)
        self._slots = {language: asyncio.Semaphore(jails) for language in CodeLanguage}
        self._share = max(1, jails - 1)
        self._shares: dict[tuple[str, CodeLanguage], asyncio.Semaphore] = {}
        self._examined: asyncio.Task[SandboxStatus] | None = None
        self._examined_at = 0.0
        self._closed = False

    async def status(self) -> SandboxStatus:
        """Which layers hold, found by putting a jail up and trying to break out of it.

        Found once where all hold; where one does not, again at the next call that is LOOK_AGAIN_S later.
        """
        known = self._examined
        if known is not None and known.done() and not known.cancelled() and not known.result().user_code_allowed:
            known = known if time.monotonic() < self._examined_at + LOOK_AGAIN_S else None
        if known is None:
            self._examined_at = time.monotonic()
            self._examined = asyncio.create_task(self._examine(), name="sandbox status")
        assert self._examined is not None
        return await asyncio.shield(self._examined)

    async def grade(self, organisation: str, code: UserCode, samples: Sequence[bytes]) -> list[Verdict]:
        """Grade JSON texts; one verdict each, in order. Raises SandboxMissing where the code may not run here."""
        await self.require(code.language)
        starts = range(0, len(samples), BATCH)
        batches = [self._grade(organisation, code, samples[start : start + BATCH]) for start in starts]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(batch) for batch in batches]
        return [verdict for task in tasks for verdict in task.result()]

    async def close(self) -> None:
        """End every jail."""
        self._closed = True
        if self._examined is not None:
            self._examined.cancel()
            await asyncio.gather(self._examined, return_exceptions=True)
        for jails in self._idle.values():
            while jails:
                await jails.pop().close()

    async def _grade(self, organisation: str, code: UserCode, samples: Sequence[bytes]) -> list[Verdict]:
        """One batch, without the samples that are too large."""
        most = self._limits.sample_bytes
        fitting = [sample for sample in samples if len(sample) <= most]
        try:
            async with self._jail(organisation, code.language) as jail:
                graded = iter(await jail.grade(code.source, fitting) if fitting else [])
        except (JailBroken, OSError) as error:
            _log.exception("a jail broke", language=code.language)
            return [Verdict.failed(Failure.CRASHED, str(error))] * len(samples)
        large = Verdict.failed(Failure.MEMORY_LIMIT, f"the sample is larger than {most} bytes of JSON")
        return [next(graded) if len(sample) <= most else large for sample in samples]

    @asynccontextmanager
    async def _jail(self, organisation: str, language: CodeLanguage) -> AsyncGenerator[Jail, None]:
        """A jail for one batch; one that fails or is left in the middle is ended, and never used again."""
        share = self._shares.setdefault((organisation, language), asyncio.Semaphore(self._share))
        async with share, self._slots[language]:
            idle = self._idle[language]
            jail = idle.pop() if idle else await self._start(language)
            try:
                yield jail
            except BaseException:
                await asyncio.shield(jail.close())
                raise
            if self._closed:
                await jail.close()
            else:
                idle.append(jail)

    async def _start(self, language: CodeLanguage) -> Jail:
        self._metrics.counter(names.SANDBOX_STARTS, language=language).inc()
        return await Jail.start(language, self._profile, self._limits)

    async def require(self, language: CodeLanguage) -> None:
        """Raise SandboxMissing, naming the layer, unless code in this language may run here."""
        status = await self.status()
        if not status.user_code_allowed:
            missing = [layer for layer in status.layers if layer.required and not layer.active]
            reasons = "; ".join(f"{layer.name} ({layer.detail})" for layer in missing) or "no language can run here"
            raise SandboxMissing(
                f"user code is refused under the {self._profile} profile, a layer is missing: {reasons}. "
                "Run the service where it works, or choose another profile (docs/user_rewards.md)",
                metadata={"layers": ",".join(layer.name for layer in missing)},
            )
        if language not in status.languages:
            raise SandboxMissing(f"{language} cannot run here; these can: {', '.join(status.languages)}")

    async def _examine(self) -> SandboxStatus:
        languages: list[str] = []
        layers: tuple[SandboxLayer, ...] = ()
        for language in CodeLanguage:
            try:
                jail = await self._start(language)
            except LanguageMissing as error:
                _log.warning("a language of user code cannot run", language=language, why=str(error))
                continue
            except (JailBroken, SeccompMissing, OSError) as error:
                return SandboxStatus(self._profile, user_code_allowed=False, layers=_without(self._profile, error))
            languages.append(language)
            self._idle[language].append(jail)
            if language is CodeLanguage.PYTHON:
                layers = self._proven(jail, await probe(jail, self._profile))
        allowed = bool(languages) and all(layer.active for layer in layers if layer.required)
        return SandboxStatus(self._profile, user_code_allowed=allowed, layers=layers, languages=tuple(languages))

    def _proven(self, jail: Jail, holes: dict[str, str]) -> tuple[SandboxLayer, ...]:
        """Layers as the jail told them, less those that the probe got through."""
        told = dict(jail.layers)
        if self._profile is SandboxProfile.HOST:
            told["bubblewrap"] = "own namespaces, user nobody"
        return tuple(
            SandboxLayer(
                name, _required(name, self._profile), name in told and name not in holes, _detail(name, told, holes)
            )
            for name in LAYERS
        )


def _required(layer: str, profile: SandboxProfile) -> bool:
    if profile is SandboxProfile.TRUSTED:
        return False
    return layer != "bubblewrap" or profile is SandboxProfile.HOST


def _detail(layer: str, told: dict[str, str], holes: dict[str, str]) -> str:
    if layer in holes:
        return holes[layer]
    return told.get(layer, "not part of this profile")


def _without(profile: SandboxProfile, error: Exception) -> tuple[SandboxLayer, ...]:
    """Layers of a jail that did not come up: the one that is missing with why, the others not tried."""
    if isinstance(error, SeccompMissing):
        missing = "seccomp"
    elif isinstance(error, JailBroken) and error.layer:
        missing = error.layer
    else:  # the child did not start: what wraps it under this profile is to blame, or it is not there
        missing = "bubblewrap" if profile is SandboxProfile.HOST else "user"
    said = error.why if isinstance(error, JailBroken) else str(error)
    return tuple(
        SandboxLayer(name, _required(name, profile), active=False, detail=said if name == missing else "not tried")
        for name in LAYERS
    )
