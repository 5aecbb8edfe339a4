"""Saving steps to the checkpoint store, and going back to one."""

import asyncio
import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from sqlalchemy.exc import IntegrityError
from ulid import ULID

from moontune.checkpoints import MANIFEST_FILE, CheckpointStore, Manifest
from moontune.checkpoints.folder import file_entries, new_folder, verify_folder
from moontune.errors import CheckpointCorrupt, CheckpointNotFound, InvalidState, StepNotFound
from moontune.serving.worker import ModelWorker
from moontune.values.finetune import Checkpoint, CheckpointRef, Finetune
from moontune.values.page import Page
from services.trainer.folders import StepFolders
from services.trainer.ledger import Answer, Ledger
from services.trainer.rows import StepRow
from services.trainer.saved import SavedCheckpoints
from services.trainer.spool import new_spool
from services.trainer.trainer_state import TRAINER_STATE_FILE, TrainerState
from services.trainer.turns import Turns, uninterrupted

SAVE, DELETE, RESTORE = "SaveCheckpoint", "DeleteCheckpoint", "RestoreCheckpoint"


@dataclass(frozen=True, slots=True)
class SaveOrder:
    """What to save. step: None is the present one. time_to_live_s: None keeps it. client_state: None, the step's."""

    request_id: str
    finetune_id: str
    step: int | None = None
    time_to_live_s: float | None = None
    client_state: bytes | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A finetune at the restored step, and the caller's bytes kept with the checkpoint."""

    finetune: Finetune
    client_state: bytes | None


class Saves:
    """Checkpoints of finetunes: rows in the database, files in the store."""

    def __init__(
        self,
        ledger: Ledger,
        saved: SavedCheckpoints,
        store: CheckpointStore,
        folders: StepFolders,
        worker: ModelWorker,
        turns: Turns,
    ) -> None:
        self._ledger, self._saved, self._store = ledger, saved, store
        self._folders, self._worker, self._turns = folders, worker, turns

    async def save(self, organisation: str, order: SaveOrder, payload_digest: str) -> Checkpoint:
        """Save a step; returns once the store holds every file. A step that is saved already is answered as it is.

        Raises:
            FinetuneNotFound, RequestIdReused. StepNotFound: never was, or its files have expired.
        """
        answer = Answer(organisation, SAVE, order.request_id, payload_digest, {})
        async with self._turns.of(order.finetune_id):
            # Within the turn: a retry may come while the first call still runs.
            stored = await asyncio.to_thread(self._ledger.replay, organisation, SAVE, order.request_id, payload_digest)
            if stored is not None:
                return await asyncio.to_thread(
                    self._get, order.finetune_id, checkpoint_id=cast("str", stored["checkpoint_id"])
                )
            row = await asyncio.to_thread(self._ledger.finetune, organisation, order.finetune_id)
            step = row.finetune.step if order.step is None else order.step
            found = await asyncio.to_thread(self._saved.find, order.finetune_id, step=step)
            if found is not None and found.expires_at is not None and found.expires_at <= datetime.now(UTC):
                await uninterrupted(self.remove, found)  # its time is over; the sweep would take the new save with it
                found = None
            if found is not None:
                await asyncio.to_thread(self._ledger.remember, replace(answer, response={"checkpoint_id": found.id}))
                return found
            return await uninterrupted(self._save, step, order, answer)

    async def get(self, organisation: str, ref: CheckpointRef) -> Checkpoint:
        """One checkpoint; CheckpointNotFound."""
        await asyncio.to_thread(self._ledger.finetune, organisation, ref.finetune_id)
        return await asyncio.to_thread(self._by_ref, ref)

    async def list(self, organisation: str, finetune_id: str, page_size: int, page_token: str) -> Page[Checkpoint]:
        """Latest step first; the token is the step of the page's last checkpoint."""
        await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
        below = int(page_token) if page_token else None
        found = await asyncio.to_thread(self._saved.list, finetune_id, page_size + 1, below)
        items = tuple(found[:page_size])
        return Page(items, str(items[-1].step) if len(found) > page_size else "")

    async def delete(self, organisation: str, request_id: str, ref: CheckpointRef, payload_digest: str) -> None:
        """Delete a checkpoint from the store, then from the list."""
        async with self._turns.of(ref.finetune_id):
            replayed = await asyncio.to_thread(self._ledger.replay, organisation, DELETE, request_id, payload_digest)
            if replayed is not None:
                return
            checkpoint = await self.get(organisation, ref)
            answer = Answer(organisation, DELETE, request_id, payload_digest, {})
            await uninterrupted(self.remove, checkpoint, answer)

    async def restore(self, organisation: str, request_id: str, ref: CheckpointRef, payload_digest: str) -> Restored:
        """Set a finetune back to a checkpoint, bit for bit; later unsaved steps are dropped.

        Raises:
            InvalidState: a later step is saved. Its name could come to mean other weights, so it must be deleted first.
            CheckpointNotFound, CheckpointCorrupt, RequestIdReused.
        """
        async with self._turns.of(ref.finetune_id):
            stored = await asyncio.to_thread(self._ledger.replay, organisation, RESTORE, request_id, payload_digest)
            row = await asyncio.to_thread(self._ledger.finetune, organisation, ref.finetune_id)
            if stored is not None:
                state = await asyncio.to_thread(self._saved.client_state, cast("str", stored["checkpoint_id"]))
                return Restored(row.finetune, state)
            checkpoint = await asyncio.to_thread(self._by_ref, ref)
            await asyncio.to_thread(self._check_latest, checkpoint)
            answer = Answer(organisation, RESTORE, request_id, payload_digest, {"checkpoint_id": checkpoint.id})
            await uninterrupted(self._restore, row.finetune, checkpoint, answer)
            await self._worker.call("learner", "forget", ref.finetune_id)
            row = await asyncio.to_thread(self._ledger.finetune, organisation, ref.finetune_id)
            return Restored(row.finetune, await asyncio.to_thread(self._saved.client_state, checkpoint.id))

    def remove(self, checkpoint: Checkpoint, answer: Answer | None = None) -> None:
        """Delete the files, then the row. Blocking; callers hold the finetune's turn.

        Tolerates files that are gone: a delete that was cut half-way.
        """
        with contextlib.suppress(CheckpointNotFound):
            self._store.delete(checkpoint.finetune_id, checkpoint.step)
        self._saved.remove(checkpoint.id, answer)

    def _save(self, step: int, order: SaveOrder, answer: Answer) -> Checkpoint:
        row = self._ledger.step(order.finetune_id, step)
        if not row.folder:
            raise StepNotFound(f"step {step} of finetune {order.finetune_id} was not saved and its files have expired")
        with new_spool(self._folders.spool) as spool:
            staged, state = _stage(self._folders.path(row.folder), spool.folder / "checkpoint", row, order)
            manifest = self._store.save(staged)
        checkpoint = manifest.checkpoint()
        try:
            self._saved.add(checkpoint, state, replace(answer, response={"checkpoint_id": checkpoint.id}))
        except IntegrityError:
            return self._saved.get(order.finetune_id, step=step)  # another caller saved the same step meanwhile
        return checkpoint

    def _restore(self, before: Finetune, checkpoint: Checkpoint, answer: Answer) -> None:
        name = self._folders.new_name(before.id, checkpoint.step)
        with new_folder(self._folders.path(name)) as partial:
            manifest = self._store.fetch(before.id, checkpoint.step, partial)
            if manifest.adapter_digest != checkpoint.adapter_digest:
                raise CheckpointCorrupt(
                    f"the store holds adapter {manifest.adapter_digest} for {before.id}@{checkpoint.step}; "
                    f"it was saved as {checkpoint.adapter_digest}"
                )
        step = StepRow(
            before.id,
            checkpoint.step,
            checkpoint.adapter_digest,
            name,
            manifest.size_bytes,
            datetime.now(UTC),
            checkpoint.metrics,
        )
        for folder in self._ledger.commit_restore(before, step, answer):
            self._folders.remove(folder)

    def _check_latest(self, checkpoint: Checkpoint) -> None:
        (latest,) = self._saved.list(checkpoint.finetune_id, 1)
        if latest.step > checkpoint.step:
            raise InvalidState(
                f"step {latest.step} of finetune {checkpoint.finetune_id} is saved and later than {checkpoint.step}; "
                "training on from there would give its name to other weights. Delete the later checkpoints first",
                metadata={"latest_saved_step": str(latest.step)},
            )

    def _by_ref(self, ref: CheckpointRef) -> Checkpoint:
        if ref.step is not None:
            return self._get(ref.finetune_id, step=ref.step)
        return self._get(ref.finetune_id, checkpoint_id=ref.checkpoint_id)

    def _get(self, finetune_id: str, *, checkpoint_id: str | None = None, step: int | None = None) -> Checkpoint:
        return self._saved.get(finetune_id, checkpoint_id=checkpoint_id, step=step)


def _stage(source: Path, folder: Path, row: StepRow, order: SaveOrder) -> tuple[Path, bytes | None]:
    """A verified copy of a step's folder as the checkpoint it becomes, and the caller's bytes in it."""
    manifest = verify_folder(source)
    if manifest.adapter_digest != row.adapter_digest:
        raise CheckpointCorrupt(f"{source} holds adapter {manifest.adapter_digest}, not {row.adapter_digest}")
    folder.mkdir()
    for entry in manifest.files:
        shutil.copyfile(source / entry.name, folder / entry.name)
    state = TrainerState.read(source)
    if order.client_state is not None:
        state = replace(state, client_state=order.client_state)
        (folder / TRAINER_STATE_FILE).write_text(state.to_json())
    (folder / MANIFEST_FILE).write_text(_as_checkpoint(manifest, folder, row.metrics, order.time_to_live_s).to_json())
    return folder, state.client_state


def _as_checkpoint(
    manifest: Manifest, folder: Path, metrics: Mapping[str, float], time_to_live_s: float | None
) -> Manifest:
    now = datetime.now(UTC)
    return replace(
        manifest,
        checkpoint_id=str(ULID()),
        created_at=now,
        expires_at=None if time_to_live_s is None else now + timedelta(seconds=time_to_live_s),
        metrics=dict(metrics),
        files=file_entries(folder),
    )
