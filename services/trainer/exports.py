"""A saved checkpoint's adapter in another form, as files on this machine for the length of a stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from moontune.checkpoints import ADAPTER_FILES, CheckpointStore, Manifest, sha256_file
from moontune.serving.worker import ModelWorker
from moontune.values.adapter import BundleFile, ExportKind, ExportManifest
from moontune.values.finetune import CheckpointRef
from moontune.values.model_ref import PolicyVersion
from services.trainer.folders import StepFolders
from services.trainer.orders import WriteForm
from services.trainer.saves import Saves
from services.trainer.spool import new_spool


@dataclass(frozen=True, slots=True)
class ExportFiles:
    """What is exported and the folder that holds its files."""

    manifest: ExportManifest
    folder: Path


class Exports:
    """Opens checkpoints in other forms."""

    def __init__(self, saves: Saves, store: CheckpointStore, folders: StepFolders, worker: ModelWorker) -> None:
        self._saves, self._store, self._folders, self._worker = saves, store, folders, worker

    @asynccontextmanager
    async def open(self, organisation: str, ref: CheckpointRef, kind: ExportKind) -> AsyncGenerator[ExportFiles]:
        """The files for the length of the block. PEFT is the saved pair itself, with its manifest beside.

        Raises:
            FinetuneNotFound, CheckpointNotFound, CheckpointCorrupt. InvalidField: lists the tensors that the form
            cannot carry.
        """
        checkpoint = await self._saves.get(organisation, ref)
        with new_spool(self._folders.spool) as spool:
            saved, out = spool.folder / "checkpoint", spool.folder / "export"
            manifest = await asyncio.to_thread(
                self._store.fetch, checkpoint.finetune_id, checkpoint.step, saved, ADAPTER_FILES
            )
            if kind is ExportKind.PEFT:
                out = saved
            else:
                out.mkdir()
                await self._worker.call("forms", "write", WriteForm(kind, str(saved), str(out)))
            yield ExportFiles(await asyncio.to_thread(_described, manifest, kind, out), out)


def _described(manifest: Manifest, kind: ExportKind, folder: Path) -> ExportManifest:
    files = tuple(BundleFile(path.name, path.stat().st_size, sha256_file(path)) for path in sorted(folder.iterdir()))
    policy = PolicyVersion(
        manifest.base, manifest.base_digest, manifest.finetune_id, manifest.step, manifest.adapter_digest
    )
    return ExportManifest(policy, kind, files)
