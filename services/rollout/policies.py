"""From a model string to the exact weights: the policy version, and its adapter's files on this machine."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from moontune.engine.adapter_folders import AdapterFolders
from moontune.engine.naming import read_model
from moontune.engine.order import AdapterRef
from moontune.errors import Unavailable, WrongBase
from moontune.values.adapter import AdapterManifest
from moontune.values.finetune import Finetune
from moontune.values.model_ref import PolicyVersion

MOST_LENT = 65536
"""Pairs of organisation and adapter remembered; adapters in use are noted again at their next request."""


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
    """Resolves model strings, by what the trainer says now: a restored finetune gives unsaved steps' names anew."""

    def __init__(
        self, source: AdapterSource, folders: AdapterFolders, worker: Worker, aliases: tuple[str, ...]
    ) -> None:
        """aliases: names that mean the process's base beside its own."""
        self._source, self._folders, self._worker, self._aliases = source, folders, worker, aliases
        self._lent: set[tuple[str, str]] = set()

    def lent_to(self, organisation: str, adapter_digest: str) -> bool:
        """Whether this process has generated with these weights for this organisation: nobody is shown another's."""
        return (organisation, adapter_digest) in self._lent

    @asynccontextmanager
    async def lend(
        self, model: str, organisation: str, field: str
    ) -> AsyncGenerator[tuple[PolicyVersion, AdapterRef | None]]:
        """The weights that a model string names for this organisation, on this machine until the block ends.

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
        finetune_id, step = ref.finetune_id, ref.step

        async def fetch(folder: Path) -> str:
            manifest = await self._source.download_adapter(finetune_id, folder, step=step)
            _check_base(manifest.policy, facts)
            return manifest.policy.adapter_digest

        now = await self._source.get_finetune(finetune_id)
        # A restore lets an unsaved step's name come to mean other weights, and it changes where the finetune stands:
        # the name is good only beside that. The organisation is in it, as what one caller may see is nobody else's.
        version = f"{organisation}/{finetune_id}@{step} of {now.step} {now.adapter_digest}"
        async with self._folders.lend(version, fetch) as adapter:
            if len(self._lent) >= MOST_LENT:
                self._lent.clear()
            self._lent.add((organisation, adapter.digest))
            yield PolicyVersion(facts["name"], facts["digest"], finetune_id, step, adapter.digest), adapter


def _check_base(policy: PolicyVersion, facts: Mapping[str, str]) -> None:
    if policy.base_digest != facts["digest"]:
        raise WrongBase(
            f"finetune {policy.finetune_id} is on base {policy.base} ({policy.base_digest}); this process serves "
            f"{facts['name']} ({facts['digest']})",
            metadata={"finetune_id": policy.finetune_id, "base": policy.base},
        )
