"""An adapter's files for a download: from a kept step's folder, else from the checkpoint store; always checked."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from moontune.checkpoints import ADAPTER_FILES, CheckpointStore
from moontune.checkpoints.folder import read_manifest, verify_file
from moontune.errors import CheckpointCorrupt, MoontuneError, StepNotFound
from moontune.values.adapter import CHUNK_BYTES, AdapterManifest, BundleFile
from moontune.values.model_ref import PolicyVersion
from services.trainer.folders import StepFolders
from services.trainer.ledger import Ledger
from services.trainer.rows import StepRow
from services.trainer.saved import SavedCheckpoints
from services.trainer.spool import new_spool


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A manifest, the folder that holds its files, and when the step was applied."""

    manifest: AdapterManifest
    folder: Path
    applied_at: datetime


class AdapterSource:
    """Opens the adapter of any step that is kept or saved."""

    def __init__(self, ledger: Ledger, saved: SavedCheckpoints, store: CheckpointStore, folders: StepFolders) -> None:
        self._ledger, self._saved, self._store, self._folders = ledger, saved, store, folders

    @asynccontextmanager
    async def open(self, organisation: str, finetune_id: str, step: int | None) -> AsyncGenerator[AdapterFiles]:
        """The files for the length of the block, in a copy that no expiry or deletion takes away.

        Raises:
            FinetuneNotFound. StepNotFound: never was, or expired unsaved. CheckpointCorrupt: names the file.
        """
        row = await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
        wanted = await asyncio.to_thread(self._ledger.step, finetune_id, row.finetune.step if step is None else step)
        with new_spool(self._folders.spool) as spool:
            manifest = await asyncio.to_thread(self._copy, wanted, spool.folder)
            yield AdapterFiles(manifest, spool.folder, wanted.applied_at)

    def _copy(self, row: StepRow, into: Path) -> AdapterManifest:
        if not (row.folder and self._copy_kept(row, into)):
            if self._saved.find(row.finetune_id, step=row.step) is None:
                raise self._lost(row)
            self._store.fetch_adapter(row.finetune_id, row.step, into)
        manifest = read_manifest(into)
        files = [manifest.file(name) for name in ADAPTER_FILES]
        for entry in files:
            verify_file(into, entry)
        return AdapterManifest(
            PolicyVersion(manifest.base, manifest.base_digest, row.finetune_id, row.step, manifest.adapter_digest),
            manifest.lora,
            tuple(BundleFile(entry.name, entry.size_bytes, entry.sha256) for entry in files),
            manifest.kind,
        )

    def _lost(self, row: StepRow) -> MoontuneError:
        if self._ledger.step(row.finetune_id, row.step).folder:
            return CheckpointCorrupt(f"a file of {self._folders.path(row.folder)} is missing; restore a saved step")
        return StepNotFound(
            f"step {row.step} of finetune {row.finetune_id} was not saved and its files have expired",
            metadata={"finetune_id": row.finetune_id, "step": str(row.step)},
        )

    def _copy_kept(self, row: StepRow, into: Path) -> bool:
        source = self._folders.path(row.folder)
        try:
            for name in (*ADAPTER_FILES, "manifest.json"):
                shutil.copyfile(source / name, into / name)
        except FileNotFoundError:
            return False  # expired between the look-up and the copy
        return True


def file_blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces of at most CHUNK_BYTES."""
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            yield block
