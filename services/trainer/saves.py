"""Saving steps to the checkpoint store, deleting them from it, and going back to one."""

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from sqlalchemy.exc import IntegrityError
from ulid import ULID

from moontune.auth.context import current_principal
from moontune.auth.limits import require_storage
from moontune.checkpoints import MANIFEST_FILE, CheckpointStore, Manifest
from moontune.checkpoints.fail_points import fail_point
from moontune.checkpoints.folder import file_entries, new_folder, verify_folder
from moontune.errors import CheckpointCorrupt, MoontuneError, StepNotFound
from moontune.serving.worker import ModelWorker
from moontune.telemetry.logs import get_logger
from moontune.values.finetune import Checkpoint, CheckpointRef, Finetune
from moontune.values.page import Page
from moontune.values.principal import Principal
from services.trainer.answers import Answer, Answers
from services.trainer.folders import StepFolders
from services.trainer.ledger import Ledger, Placed
from services.trainer.paging import numbers_of
from services.trainer.rows import StepRow
from services.trainer.saved import SavedCheckpoints
from services.trainer.spool import new_spool
from services.trainer.trainer_state import TRAINER_STATE_FILE, TrainerState
from services.trainer.turns import Turns, uninterrupted

SAVE, DELETE, RESTORE = "SaveCheckpoint", "DeleteCheckpoint", "RestoreCheckpoint"

log = get_logger(__name__)


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
        answers: Answers,
        saved: SavedCheckpoints,
        store: CheckpointStore,
        folders: StepFolders,
        worker: ModelWorker,
        turns: Turns,
    ) -> None:
        self._ledger, self._answers, self._saved, self._store = ledger, answers, saved, store
        self._folders, self._worker, self._turns = folders, worker, turns

    async def save(self, organisation: str, order: SaveOrder, payload_digest: str) -> Checkpoint:
        """Save a step; returns once the store holds every file. A step that is saved already is answered as it is.

        Raises:
            FinetuneNotFound, RequestIdReused. StepNotFound: never was, or its files have expired.
        """
        answer = Answer(organisation, SAVE, order.request_id, payload_digest, {})
        async with self._turns.of(order.finetune_id):
            # Within the turn: a retry may come while the first call still runs.
            stored = await asyncio.to_thread(self._answers.replay, organisation, SAVE, order.request_id, payload_digest)
            if stored is not None:
                return await asyncio.to_thread(
                    self._get, order.finetune_id, checkpoint_id=cast("str", stored["checkpoint_id"])
                )
            row = await asyncio.to_thread(self._ledger.finetune, organisation, order.finetune_id)
            step = row.finetune.step if order.step is None else order.step
            found = await asyncio.to_thread(self._saved.find, order.finetune_id, step=step)
            if found is not None and found.expires_at is not None and found.expires_at <= datetime.now(UTC):
                # Its time is over; the sweep would take the new save with it.
                await uninterrupted(self._saved.hide, found.id)
                found = None
            if found is not None:
                await asyncio.to_thread(self._answers.remember, replace(answer, response={"checkpoint_id": found.id}))
                return found
            await uninterrupted(self.finish_removals, order.finetune_id)
            await asyncio.to_thread(self._check_quota, current_principal(), order.finetune_id, step)
            checkpoint = await uninterrupted(self._save, step, order, answer)
            fail_point("save.committed")
            return checkpoint

    async def get(self, organisation: str, ref: CheckpointRef) -> Checkpoint:
        """One checkpoint; CheckpointNotFound."""
        await asyncio.to_thread(self._ledger.finetune, organisation, ref.finetune_id)
        return await asyncio.to_thread(self._by_ref, ref)

    async def list(self, organisation: str, finetune_id: str, page_size: int, page_token: str) -> Page[Checkpoint]:
        """Latest step first; the token is the step of the page's last checkpoint."""
        await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
        (below,) = numbers_of(page_token, 1) if page_token else (None,)
        found = await asyncio.to_thread(self._saved.list, finetune_id, page_size + 1, below)
        items = tuple(found[:page_size])
        return Page(items, str(items[-1].step) if len(found) > page_size else "")

    async def delete(self, organisation: str, request_id: str, ref: CheckpointRef, payload_digest: str) -> None:
        """Take a checkpoint off the list, then out of the store; what a kill or outage leaves, the sweep finishes."""
        async with self._turns.of(ref.finetune_id):
            replayed = await asyncio.to_thread(self._answers.replay, organisation, DELETE, request_id, payload_digest)
            if replayed is not None:
                return
            checkpoint = await self.get(organisation, ref)
            answer = Answer(organisation, DELETE, request_id, payload_digest, {})
            await uninterrupted(self._saved.hide, checkpoint.id, answer)
            await uninterrupted(self.finish_removals, ref.finetune_id)

    async def restore(self, organisation: str, request_id: str, ref: CheckpointRef, payload_digest: str) -> Restored:
        """Set a finetune back to a checkpoint, bit for bit. Later steps keep their names; the next takes a new number.

        Raises:
            CheckpointNotFound, CheckpointCorrupt, RequestIdReused.
        """
        async with self._turns.of(ref.finetune_id):
            stored = await asyncio.to_thread(self._answers.replay, organisation, RESTORE, request_id, payload_digest)
            row = await asyncio.to_thread(self._ledger.finetune, organisation, ref.finetune_id)
            if stored is not None:
                state = await asyncio.to_thread(self._saved.client_state, cast("str", stored["checkpoint_id"]))
                return Restored(row.finetune, state)
            checkpoint = await asyncio.to_thread(self._by_ref, ref)
            answer = Answer(organisation, RESTORE, request_id, payload_digest, {"checkpoint_id": checkpoint.id})
            await uninterrupted(self._restore, row.finetune, checkpoint, answer)
            fail_point("restore.committed")
            await self._worker.call("learner", "forget", ref.finetune_id)
            row = await asyncio.to_thread(self._ledger.finetune, organisation, ref.finetune_id)
            return Restored(row.finetune, await asyncio.to_thread(self._saved.client_state, checkpoint.id))

    def remove(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint off the list and out of the store. Blocking; callers hold the finetune's turn."""
        self._saved.hide(checkpoint.id)
        self.finish_removals(checkpoint.finetune_id)

    def finish_removals(self, finetune_id: str) -> None:
        """Delete the files of checkpoints that have left the list. Blocking; callers hold the finetune's turn.

        A store that cannot be reached keeps them until the next sweep: they are off the list either way.
        """
        for checkpoint in self._saved.leaving(finetune_id):
            try:
                self._store.remove(finetune_id, checkpoint.step)
            except MoontuneError as error:
                log.warning(
                    "checkpoint not deleted yet", finetune_id=finetune_id, step=checkpoint.step, error=str(error)
                )
                continue
            fail_point("remove.files")
            self._saved.forget(checkpoint.id)

    def remove_all(self, finetune_id: str) -> None:
        """Delete whatever the store holds of a deleted finetune. Blocking; callers hold its turn."""
        self.finish_removals(finetune_id)
        try:
            self._store.clear(finetune_id)
        except MoontuneError as error:
            log.warning("left-over files not deleted", finetune_id=finetune_id, error=str(error))

    def recover(self, organisation: str, finetune_id: str) -> None:
        """List saves that reached the store and were cut before the list; clear what cut ones left there.

        Blocking; callers hold the finetune's turn.
        """
        self.finish_removals(finetune_id)
        going = {checkpoint.step for checkpoint in self._saved.leaving(finetune_id)}
        for step in self._store.steps(finetune_id):
            if step in going or self._saved.find(finetune_id, step=step) is not None:
                continue
            manifest = self._store.get(finetune_id, step)
            if manifest.adapter_digest == self._ledger.step(finetune_id, step).adapter_digest:
                content = self._store.read(finetune_id, step, TRAINER_STATE_FILE)
                state = TrainerState.from_json(content, f"{finetune_id}@{step}/{TRAINER_STATE_FILE}")
                self._saved.add(manifest.checkpoint(), state.client_state, organisation)
                log.info("listed a save that was cut before its answer", finetune_id=finetune_id, step=step)
        self._store.clear(finetune_id)

    def _check_quota(self, principal: Principal, finetune_id: str, step: int) -> None:
        """Raise ResourceExhausted where one more checkpoint would be beyond the storage that the caller's key has."""
        more_bytes = self._ledger.step(finetune_id, step).size_bytes
        require_storage(principal, self._saved.stored_bytes(principal.organisation), more_bytes)

    def _save(self, step: int, order: SaveOrder, answer: Answer) -> Checkpoint:
        row = self._ledger.step(order.finetune_id, step)
        if not row.folder:
            raise StepNotFound(f"step {step} of finetune {order.finetune_id} was not saved and its files have expired")
        with new_spool(self._folders.spool) as spool:
            staged, state = _stage(self._folders.path(row.folder), spool.folder / "checkpoint", row, order)
            fail_point("save.staged")
            manifest = self._store.save(staged)
        fail_point("save.stored")
        checkpoint = manifest.checkpoint()
        try:
            answer = replace(answer, response={"checkpoint_id": checkpoint.id})
            self._saved.add(checkpoint, state, answer.organisation, answer)
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
        fail_point("restore.fetched")
        to = self._ledger.step(before.id, checkpoint.step)
        self._ledger.commit_restore(before, to, Placed(name, manifest.size_bytes), answer)
        if to.folder:
            self._folders.remove(to.folder)

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
