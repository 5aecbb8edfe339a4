"""A new finetune from a step of another one."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from moontune.checkpoints import MANIFEST_FILE, CheckpointStore, Manifest
from moontune.checkpoints.folder import file_entries, new_folder, verify_folder
from moontune.errors import CheckpointNotFound, InvalidField, StepNotFound, WrongBase
from moontune.values.finetune import BranchPoint, Finetune, LoraSettings, NewFinetune
from services.trainer.folders import StepFolders
from services.trainer.ledger import Ledger
from services.trainer.orders import WrittenStep
from services.trainer.saved import SavedCheckpoints
from services.trainer.trainer_state import TRAINER_STATE_FILE, TrainerState


class Branches:
    """Copies a step of one finetune to be step 0 of another: weights, moments, generators and caller's bytes."""

    def __init__(self, ledger: Ledger, saved: SavedCheckpoints, store: CheckpointStore, folders: StepFolders) -> None:
        self._ledger, self._saved, self._store, self._folders = ledger, saved, store, folders

    def holds(self, organisation: str, point: BranchPoint) -> bool:
        """Whether there are files to copy; false for a step 0 that has none, which equals the base.

        Raises:
            FinetuneNotFound, StepNotFound. CheckpointNotFound: the step is not saved.
        """
        self._ledger.finetune(organisation, point.finetune_id)
        if self._saved.find(point.finetune_id, step=point.step) is not None:
            return True
        row = self._ledger.step(point.finetune_id, point.step)
        if point.step > 0:
            raise CheckpointNotFound(
                f"step {point.step} of finetune {point.finetune_id} is not saved; save it, then branch from it",
                metadata={"finetune_id": point.finetune_id},
            )
        return bool(row.folder)

    def copy(self, point: BranchPoint, new: NewFinetune, finetune: Finetune, final: Path) -> WrittenStep:
        """Write step 0 of `finetune`, whole or not at all.

        Raises:
            InvalidField: kind or shape asked for are not the step's. WrongBase. CheckpointCorrupt.
        """
        with new_folder(final) as folder:
            manifest = self._fetch(point, folder)
            _check_same_form(manifest, new, finetune)
            state = TrainerState.read(folder)
            (folder / TRAINER_STATE_FILE).write_text(replace(state, step=0).to_json())
            manifest = replace(
                manifest,
                checkpoint_id="",
                finetune_id=finetune.id,
                finetune_name=finetune.name,
                organisation=finetune.organisation,
                step=0,
                parent_digest=manifest.adapter_digest,
                created_at=datetime.now(UTC),
                expires_at=None,
                lora=finetune.lora,
                files=file_entries(folder),
            )
            (folder / MANIFEST_FILE).write_text(manifest.to_json())
        return WrittenStep(manifest.adapter_digest, manifest.size_bytes)

    def _fetch(self, point: BranchPoint, into: Path) -> Manifest:
        if self._saved.find(point.finetune_id, step=point.step) is not None:
            return self._store.fetch(point.finetune_id, point.step, into)
        source = self._folders.path(self._ledger.step(point.finetune_id, point.step).folder)
        manifest = verify_folder(source)
        try:
            for entry in manifest.files:
                shutil.copyfile(source / entry.name, into / entry.name)
        except FileNotFoundError as error:
            raise StepNotFound(f"step {point.step} of finetune {point.finetune_id} expired just now") from error
        return manifest


def _check_same_form(manifest: Manifest, new: NewFinetune, finetune: Finetune) -> None:
    if manifest.base_digest != finetune.base_digest:
        raise WrongBase(f"{manifest.finetune_id}@{manifest.step} is on {manifest.base} ({manifest.base_digest})")
    if (new.kind, _shape(new.lora)) != (manifest.kind, _shape(manifest.lora)):
        shape = f"kind {manifest.kind}, rank {manifest.lora.rank}, scale {manifest.lora.scale:g}, targets "
        raise InvalidField.of(
            "branch_from",
            f"{manifest.finetune_id}@{manifest.step}",
            f"a step of the shape that is asked for; this one has {shape}{', '.join(manifest.lora.targets)}",
        )


def _shape(lora: LoraSettings) -> LoraSettings:
    """Without what the weights do not show: the seed, and whether alpha was given or follows the rank."""
    return replace(lora, seed=0, alpha=lora.scale * lora.rank)
