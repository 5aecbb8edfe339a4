"""From a model string to the exact weights: the policy version, and its adapter's files on this machine."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from moontune.engine.adapter_folders import AdapterFolders
from moontune.engine.naming import read_model
from moontune.engine.order import AdapterRef
from moontune.errors import DeadlineExceeded, MoontuneError, NotFound, Unavailable, WrongBase
from moontune.telemetry.logs import get_logger
from moontune.values.adapter import AdapterManifest
from moontune.values.finetune import Finetune
from moontune.values.model_ref import PolicyVersion

log = get_logger(__name__)

MOST_LENT = 65536
"""Pairs of organisation and adapter, or finetune, remembered; those in use are noted again at their next request."""


class AdapterSource(Protocol):
    """The part of the trainer's client that is needed; calls carry the caller's organisation."""

    async def get_finetune(self, finetune_id: str) -> Finetune:
        """Where the finetune stands now."""
        ...

    async def download_adapter(self, finetune_id: str, folder: Path, *, step: int | None = None) -> AdapterManifest:
        """Write an adapter's files into the folder, each checked."""
        ...


class Worker(Protocol):
    """The part of the model worker that is needed."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Name and digest of the base; empty while it loads."""
        ...


class Policies:
    """Resolves model strings. A name never comes to mean other weights, so what was fetched is good for ever."""

    def __init__(
        self,
        source: AdapterSource,
        folders: AdapterFolders,
        worker: Worker,
        aliases: tuple[str, ...],
        recheck_s: float = 10.0,
    ) -> None:
        """aliases: names that mean the process's base beside its own.

        recheck_s: how long a finetune is believed to be there; then the trainer is asked, if it answers.
        """
        self._source, self._folders, self._worker, self._aliases = source, folders, worker, aliases
        self._recheck_s = recheck_s
        self._lent: set[tuple[str, str]] = set()
        self._seen: dict[tuple[str, str], float] = {}
        self._fetching: set[asyncio.Task[None]] = set()

    def lent_to(self, organisation: str, adapter_digest: str) -> bool:
        """Whether this process has generated with these weights for this organisation: nobody is shown another's."""
        return (organisation, adapter_digest) in self._lent

    @asynccontextmanager
    async def lend(
        self, model: str, organisation: str, field: str, max_staleness_steps: int = 0
    ) -> AsyncGenerator[tuple[PolicyVersion, AdapterRef | None]]:
        """The weights that a model string names for this organisation, on this machine until the block ends.

        max_staleness_steps: where the step itself is not here yet, one so much older that is here will do; the step
        is fetched meanwhile.

        Raises:
            InvalidField, ModelNotFound: the string. FinetuneNotFound, StepNotFound: the trainer has no such policy.
            WrongBase: the finetune is on another base. Unavailable: base or trainer cannot answer now.
            CheckpointCorrupt: the files do not have the digest that was announced.
        """
        facts = self._worker.facts
        if not facts:
            raise Unavailable("the base model is still loading", retry_after_s=1.0)
        ref = read_model(model, facts["name"], self._aliases, field)
        if ref.finetune_id is None or ref.step is None:
            yield PolicyVersion(facts["name"], facts["digest"]), None
            return
        await self._check(organisation, ref.finetune_id)
        step = self._nearest(organisation, ref.finetune_id, ref.step, max_staleness_steps)
        if step != ref.step:
            self._fetch_behind(organisation, ref.finetune_id, ref.step)
        async with self._held(organisation, ref.finetune_id, step) as adapter:
            if len(self._lent) >= MOST_LENT:
                self._lent.clear()
            self._lent.add((organisation, adapter.digest))
            yield PolicyVersion(facts["name"], facts["digest"], ref.finetune_id, step, adapter.digest), adapter

    async def close(self) -> None:
        """Give up what is being fetched ahead."""
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)

    async def _check(self, organisation: str, finetune_id: str) -> None:
        """Ask now and then whether the finetune is still there; a trainer that is away stops nothing."""
        seen = self._seen.get((organisation, finetune_id))
        if seen is not None and time.monotonic() - seen < self._recheck_s:
            return
        try:
            await self._source.get_finetune(finetune_id)
        except (Unavailable, DeadlineExceeded):
            if seen is None:
                raise
        except NotFound:
            self._seen.pop((organisation, finetune_id), None)
            raise
        if len(self._seen) >= MOST_LENT:
            self._seen.clear()
        self._seen[organisation, finetune_id] = time.monotonic()

    def _nearest(self, organisation: str, finetune_id: str, step: int, max_staleness_steps: int) -> int:
        """The newest step that is here and not too old; the one asked for where there is none."""
        for each in range(step, max(-1, step - max_staleness_steps - 1), -1):
            if self._folders.has(_version(organisation, finetune_id, each)):
                return each
        return step

    def _held(
        self, organisation: str, finetune_id: str, step: int
    ) -> contextlib.AbstractAsyncContextManager[AdapterRef]:
        async def fetch(folder: Path) -> str:
            manifest = await self._source.download_adapter(finetune_id, folder, step=step)
            _check_base(manifest.policy, self._worker.facts)
            return manifest.policy.adapter_digest

        return self._folders.lend(_version(organisation, finetune_id, step), fetch)

    def _fetch_behind(self, organisation: str, finetune_id: str, step: int) -> None:
        async def bring() -> None:
            try:
                async with self._held(organisation, finetune_id, step):
                    pass
            except MoontuneError as error:  # whoever insists on this step will be told
                log.warning("a step could not be fetched ahead", finetune_id=finetune_id, step=step, error=str(error))

        name = _version(organisation, finetune_id, step)
        if all(task.get_name() != name for task in self._fetching):
            task = asyncio.create_task(bring(), name=name)
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)


def _version(organisation: str, finetune_id: str, step: int) -> str:
    """The organisation is in it, as what one caller may see is nobody else's."""
    return f"{organisation}/{finetune_id}@{step}"


def _check_base(policy: PolicyVersion, facts: Mapping[str, str]) -> None:
    if policy.base_digest != facts["digest"]:
        raise WrongBase(
            f"finetune {policy.finetune_id} is on base {policy.base} ({policy.base_digest}); this process serves "
            f"{facts['name']} ({facts['digest']})",
            metadata={"finetune_id": policy.finetune_id, "base": policy.base},
        )
