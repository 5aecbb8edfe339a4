"""The files of one step: adapter, optimiser state, generator state, caller's bytes, manifest. Torch lives here.

adapter_model.safetensors, adapter_config.json   PEFT's layout
optimizer.safetensors   `<moment>.<parameter>` (AdamW: exp_avg, exp_avg_sq, step; see `optimisers`), `rng` (uint8)
trainer_state.json      {"step": n, "client_state": base64 or null}
manifest.json           last
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from moontune.checkpoints import MANIFEST_FILE, Manifest, adapter_digest
from moontune.checkpoints.folder import file_entries, new_folder
from moontune.errors import CheckpointCorrupt
from moontune.model.lora import Adapters
from moontune.values.finetune import Finetune
from moontune.values.training import OptimiserKind
from services.trainer.optimisers import expected_state, put_state
from services.trainer.orders import WrittenStep
from services.trainer.trainer_state import TRAINER_STATE_FILE, TrainerState

OPTIMISER_FILE = "optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class OptimiserState:
    """moments: `<moment>.<parameter name>` to tensors; empty before the first step. rng: generator state, uint8."""

    moments: Mapping[str, Tensor]
    rng: Tensor


def write_step(
    final: Path,
    finetune: Finetune,
    step: int,
    adapters: Adapters,
    state: OptimiserState,
    client_state: bytes | None,
    metrics: Mapping[str, float],
) -> WrittenStep:
    """Write the folder of a step, whole or not at all; durable when it returns."""
    with new_folder(final) as folder:
        adapters.save(finetune.id, folder, finetune.base)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.moments.items()}
        save_file({**tensors, "rng": state.rng}, folder / OPTIMISER_FILE)
        (folder / TRAINER_STATE_FILE).write_text(TrainerState(step, client_state).to_json())
        entries = file_entries(folder)
        digest = adapter_digest({entry.name: entry.sha256 for entry in entries})
        manifest = Manifest(
            checkpoint_id="",
            finetune_id=finetune.id,
            finetune_name=finetune.name,
            organisation=finetune.organisation,
            base=finetune.base,
            base_digest=finetune.base_digest,
            kind=finetune.kind,
            lora=finetune.lora,
            step=step,
            adapter_digest=digest,
            parent_digest=finetune.adapter_digest,
            created_at=datetime.now(UTC),
            files=entries,
            metrics=metrics,
            versions={name: version(name) for name in ("moontune", "torch", "peft", "safetensors")},
        )
        (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return WrittenStep(digest, manifest.size_bytes)


def read_optimiser(folder: Path) -> OptimiserState:
    """Moments and generator state of a verified step folder; CheckpointCorrupt when the file cannot be read."""
    path = folder / OPTIMISER_FILE
    try:
        tensors = load_file(path)
        rng = tensors.pop("rng")
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read: {error}") from error
    return OptimiserState(tensors, rng)


def load_moments(
    optimiser: torch.optim.Optimizer,
    kind: OptimiserKind,
    parameters: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
) -> None:
    """Put moments back; CheckpointCorrupt when they are not those of these parameters.

    A parameter that no step has given a gradient yet (the region head of a finetune trained on questions alone, say)
    has none: the optimiser starts it when its first gradient comes, as it would have without the interruption.
    """
    having = {name.partition(".")[2] for name in moments}
    known = {name: expected_state(kind, parameters[name]) for name in parameters if name in having}
    expected = {f"{moment}.{name}" for name, own in known.items() for moment in own}
    if set(moments) != expected:
        different = sorted(expected ^ set(moments))[:5]
        raise CheckpointCorrupt(f"{OPTIMISER_FILE} does not have this adapter's parameters: {different}")
    for name, own in known.items():
        put_state(optimiser, parameters[name], {moment: moments[f"{moment}.{name}"] for moment in own})
