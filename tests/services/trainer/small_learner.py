"""A learner without torch, for tests that start a trainer a hundred times. Everything around it is the real trainer.

Its weights are 32 bytes; a step makes them SHA-256(weights + the step's client state), so that anyone can say what a
chain of steps must come to. Folders are written through the same functions as real ones.

`python -m tests.services.trainer.small_learner --port=...` runs it in the trainer's own front process.
"""

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moontune.checkpoints import MANIFEST_FILE, Manifest, adapter_digest
from moontune.checkpoints.disk import disk_error
from moontune.checkpoints.folder import file_entries, new_folder, verify_folder
from moontune.errors import CheckpointCorrupt
from moontune.serving.server import run
from moontune.serving.worker_protocol import CallContext, WorkerSpec
from moontune.values.finetune import Finetune
from services.trainer.config import TrainerSettings
from services.trainer.orders import CreateOrder, StepOutcome, TrainOrder, WrittenStep
from services.trainer.servicer import build
from services.trainer.trainer_state import TRAINER_STATE_FILE, TrainerState

BASE_DIGEST = "sha256:" + "5" * 64
FIRST = bytes(32)
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class SmallBase:
    name: str
    digest: str = BASE_DIGEST
    device: str = "cpu"


def load(base: str, device: str | None) -> SmallBase:
    return SmallBase("small")


def stepped(weights: bytes, client_state: bytes) -> bytes:
    """The weights after a step."""
    return hashlib.sha256(weights + client_state).digest()


def digest_of(weights: bytes) -> str:
    """The adapter digest of these weights."""
    return adapter_digest(
        {WEIGHTS_FILE: hashlib.sha256(weights).hexdigest(), CONFIG_FILE: hashlib.sha256(b"{}").hexdigest()}
    )


class SmallLearner:
    """The methods that the front calls."""

    def create(self, ctx: CallContext, order: CreateOrder) -> WrittenStep:
        return write(Path(order.folder), order.finetune, 0, FIRST, None)

    def train(self, ctx: CallContext, order: TrainOrder) -> StepOutcome:
        source = Path(order.folder)
        if verify_folder(source).adapter_digest != order.finetune.adapter_digest:
            raise CheckpointCorrupt(f"{source} holds other weights")
        assert order.client_state is not None
        time.sleep(0.02)  # long enough to be killed in
        weights = stepped((source / WEIGHTS_FILE).read_bytes(), order.client_state)
        written = write(Path(order.new_folder), order.finetune, order.step, weights, order.client_state)
        return StepOutcome(written, metrics={"loss": 1.0})

    def forget(self, ctx: CallContext, finetune_id: str) -> None:
        pass


def write(final: Path, finetune: Finetune, step: int, weights: bytes, client_state: bytes | None) -> WrittenStep:
    """Write a step's folder."""
    try:
        return _write_folder(final, finetune, step, weights, client_state)
    except OSError as error:
        raise disk_error(error, f"step {step} cannot be written and was not applied") from error


def _write_folder(
    final: Path, finetune: Finetune, step: int, weights: bytes, client_state: bytes | None
) -> WrittenStep:
    with new_folder(final) as folder:
        (folder / WEIGHTS_FILE).write_bytes(weights)
        (folder / CONFIG_FILE).write_text("{}")
        (folder / "optimizer.safetensors").write_bytes(weights * 100)
        (folder / TRAINER_STATE_FILE).write_text(TrainerState(step, client_state).to_json())
        entries = file_entries(folder)
        manifest = Manifest(
            checkpoint_id="",
            finetune_id=finetune.id,
            finetune_name=finetune.name,
            organisation=finetune.organisation,
            base=finetune.base,
            base_digest=finetune.base_digest,
            lora=finetune.lora,
            step=step,
            adapter_digest=digest_of(weights),
            created_at=datetime.now(UTC),
            files=entries,
            parent_digest=finetune.adapter_digest,
        )
        (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return WrittenStep(manifest.adapter_digest, manifest.size_bytes)


def build_learner(base: SmallBase, options: object) -> SmallLearner:
    return SmallLearner()


def worker(settings: TrainerSettings) -> WorkerSpec:
    here = "tests.services.trainer.small_learner"
    return WorkerSpec("small", components={"learner": f"{here}:build_learner"}, loader=f"{here}:load")


if __name__ == "__main__":
    run("trainer", TrainerSettings, build, worker)
