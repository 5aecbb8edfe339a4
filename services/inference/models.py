"""From a model string to a saved step's exact weights, by the checkpoint store alone: a dead trainer stops nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from moontune.checkpoints import CheckpointStore, Manifest
from moontune.engine.adapter_folders import AdapterFolders
from moontune.engine.naming import read_model
from moontune.engine.order import AdapterRef
from moontune.errors import CheckpointCorrupt, CheckpointNotFound, InvalidField, Unavailable, WrongBase
from moontune.telemetry.logs import get_logger
from moontune.values.inference import ModelInfo
from moontune.values.model_ref import ModelRef, PolicyVersion
from moontune.values.skill import Skill

log = get_logger(__name__)

MOST_CHECKED = 65536
"""Manifests remembered between two looks at the store."""

MOST_SHOWN = 8
"""Saved steps named in an error."""


class Worker(Protocol):
    """The part of the model worker that is needed."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Name and digest of the base; empty while it loads."""
        ...


class Models:
    """Resolves model strings and lists what can be named."""

    def __init__(
        self,
        store: CheckpointStore,
        folders: AdapterFolders,
        worker: Worker,
        aliases: tuple[str, ...],
        recheck_s: float,
    ) -> None:
        """aliases: names that mean the process's base. recheck_s: how long a manifest read is believed to be there."""
        self._store, self._folders, self._worker, self._aliases = store, folders, worker, aliases
        self._recheck_s = recheck_s
        self._checked: dict[tuple[str, int], tuple[Manifest, float]] = {}

    @property
    def base(self) -> PolicyVersion:
        """The bare base; raises Unavailable while it loads."""
        facts = self._worker.facts
        if not facts:
            raise Unavailable("the base model is still loading", retry_after_s=1.0)
        return PolicyVersion(facts["name"], facts["digest"])

    @asynccontextmanager
    async def lend(
        self, model: str, organisation: str, field: str
    ) -> AsyncGenerator[tuple[PolicyVersion, AdapterRef | None]]:
        """The weights that a model string names for this organisation, on this machine until the block ends.

        Raises:
            InvalidField, ModelNotFound: the string. CheckpointNotFound: no such saved step of this organisation.
            WrongBase: the finetune is on another base. CheckpointCorrupt: a stored file is not what it should be.
        """
        policy = self.policy(await self.manifest(model, organisation, field))
        if not policy.finetune_id:
            yield policy, None
            return

        async def fetch(folder: Path) -> str:
            found = await asyncio.to_thread(self._store.fetch_adapter, policy.finetune_id, policy.step, folder)
            if found.adapter_digest != policy.adapter_digest:  # deleted, and saved anew, since its manifest was read
                self._checked.pop((policy.finetune_id, policy.step), None)
                raise Unavailable(f"{model} was saved anew during the call; call again", retry_after_s=0.1)
            return found.adapter_digest

        # Named by content: two steps with the same files share them, and a name never means other weights.
        async with self._folders.lend(policy.adapter_digest, fetch) as adapter:
            yield policy, adapter

    async def manifest(self, model: str, organisation: str, field: str) -> Manifest | None:
        """The manifest of the saved step that a model string names; None for the bare base."""
        ref = read_model(model, self.base.base, self._aliases, field)
        if ref.finetune_id is None or ref.step is None:
            return None
        manifest = await self._read(ref.finetune_id, ref.step)
        if manifest is None or manifest.organisation != organisation:
            raise await self._not_found(ref, organisation)
        if manifest.base_digest != self.base.base_digest:
            raise WrongBase(
                f"finetune {ref.finetune_id} is on base {manifest.base} ({manifest.base_digest}); this process serves "
                f"{self.base.base} ({self.base.base_digest})",
                metadata={"finetune_id": ref.finetune_id, "base": manifest.base},
            )
        return manifest

    def policy(self, manifest: Manifest | None) -> PolicyVersion:
        """The version that a manifest describes; the base for None."""
        base = self.base
        if manifest is None:
            return base
        return PolicyVersion(base.base, base.base_digest, manifest.finetune_id, manifest.step, manifest.adapter_digest)

    async def named(self, organisation: str) -> list[ModelInfo]:
        """The base, then the organisation's saved steps on it, newest first; manifests are believed for `recheck_s`."""
        manifests, mine = await asyncio.to_thread(self._all), (organisation, self.base.base_digest)
        own = [each for each in manifests if (each.organisation, each.base_digest) == mine]
        own.sort(key=lambda each: (each.created_at, each.finetune_id, each.step), reverse=True)
        skills = (Skill.QUERY, Skill.POINT, Skill.DETECT)
        saved = [
            ModelInfo(f"{self.base.base}/{each.finetune_id}@{each.step}", self.policy(each), skills, each.created_at)
            for each in own
        ]
        return [ModelInfo(self.base.base, self.base, skills), *saved]

    def _all(self) -> list[Manifest]:
        found: list[Manifest] = []
        for finetune_id in self._store.finetunes():
            for step in self._store.steps(finetune_id):
                try:
                    found.append(self._believed(finetune_id, step) or self._get(finetune_id, step))
                except (CheckpointCorrupt, CheckpointNotFound) as error:  # damaged, or deleted just now
                    log.warning("a checkpoint is not listed", finetune_id=finetune_id, step=step, error=error.message)
        return found

    async def _read(self, finetune_id: str, step: int) -> Manifest | None:
        held = self._believed(finetune_id, step)
        if held is not None:
            return held
        try:
            return await asyncio.to_thread(self._get, finetune_id, step)
        except CheckpointNotFound:
            self._checked.pop((finetune_id, step), None)
            return None

    def _believed(self, finetune_id: str, step: int) -> Manifest | None:
        """The manifest if it was read a short while ago."""
        held = self._checked.get((finetune_id, step))
        return held[0] if held is not None and time.monotonic() - held[1] < self._recheck_s else None

    def _get(self, finetune_id: str, step: int) -> Manifest:
        manifest = self._store.get(finetune_id, step)
        if len(self._checked) >= MOST_CHECKED:
            self._checked.clear()
        self._checked[finetune_id, step] = (manifest, time.monotonic())
        return manifest

    async def _not_found(self, ref: ModelRef, organisation: str) -> CheckpointNotFound:
        """What is said to a caller who may see only its own steps."""
        assert ref.finetune_id is not None
        steps = await asyncio.to_thread(self._own_steps, ref.finetune_id, organisation)
        shown = ", ".join(map(str, steps[-MOST_SHOWN:]))
        newest = f"{shown} and {len(steps) - MOST_SHOWN} earlier" if len(steps) > MOST_SHOWN else shown
        saved = f"saved: {newest}" if steps else "it has none, or is not yours"
        return CheckpointNotFound(
            f"finetune {ref.finetune_id} has no saved checkpoint at step {ref.step}; {saved}. "
            "Only saved steps are served: call SaveCheckpoint first",
            metadata={"finetune_id": ref.finetune_id, "step": str(ref.step)},
        )

    def _own_steps(self, finetune_id: str, organisation: str) -> list[int]:
        """Saved steps, if the finetune is this organisation's: all of a finetune's steps are one organisation's."""
        steps = self._store.steps(finetune_id)
        for step in reversed(steps):
            with contextlib.suppress(CheckpointCorrupt, CheckpointNotFound):  # another one can tell as well
                return steps if self._store.get(finetune_id, step).organisation == organisation else []
        return []


def require_finetune(manifest: Manifest | None, model: str, field: str) -> Manifest:
    """The manifest; InvalidField where the model string names the bare base, which has no adapter."""
    if manifest is None:
        raise InvalidField.of(field, model, "<base>/<finetune_id>@<step>: the base itself has no adapter")
    return manifest
