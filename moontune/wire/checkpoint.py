"""Checkpoints and their names."""

from moontune.api.trainer.v1 import checkpoint_pb2
from moontune.errors import InvalidField
from moontune.values.finetune import Checkpoint, CheckpointRef
from moontune.wire.checks import at_least, encodes, finite_map, required, text
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto


@encodes("checkpoint")
def checkpoint_to_proto(checkpoint: Checkpoint) -> checkpoint_pb2.Checkpoint:
    """The message."""
    expires_at = checkpoint.expires_at
    return checkpoint_pb2.Checkpoint(
        id=checkpoint.id,
        finetune_id=checkpoint.finetune_id,
        step=checkpoint.step,
        adapter_digest=checkpoint.adapter_digest,
        size_bytes=checkpoint.size_bytes,
        created_at=timestamp_to_proto(checkpoint.created_at),
        expires_at=None if expires_at is None else timestamp_to_proto(expires_at),
        metrics=checkpoint.metrics,
    )


def checkpoint_from_proto(message: checkpoint_pb2.Checkpoint, field: str = "checkpoint") -> Checkpoint:
    """The value."""
    required(message.HasField("created_at"), f"{field}.created_at", "a time")
    expires_at = None
    if message.HasField("expires_at"):
        expires_at = timestamp_from_proto(message.expires_at, f"{field}.expires_at")
    return Checkpoint(
        id=text(message.id, f"{field}.id"),
        finetune_id=text(message.finetune_id, f"{field}.finetune_id"),
        step=at_least(message.step, 0, f"{field}.step"),
        adapter_digest=message.adapter_digest,
        size_bytes=message.size_bytes,
        created_at=timestamp_from_proto(message.created_at, f"{field}.created_at"),
        expires_at=expires_at,
        metrics=finite_map(message.metrics, f"{field}.metrics"),
    )


@encodes("ref")
def checkpoint_ref_to_proto(ref: CheckpointRef) -> checkpoint_pb2.CheckpointRef:
    """The message; by step where the value has one."""
    if ref.step is not None:
        return checkpoint_pb2.CheckpointRef(finetune_id=ref.finetune_id, step=ref.step)
    return checkpoint_pb2.CheckpointRef(finetune_id=ref.finetune_id, checkpoint_id=ref.checkpoint_id)


def checkpoint_ref_from_proto(message: checkpoint_pb2.CheckpointRef, field: str = "ref") -> CheckpointRef:
    """The value."""
    finetune_id = text(message.finetune_id, f"{field}.finetune_id")
    match message.WhichOneof("selector"):
        case "step":
            return CheckpointRef(finetune_id, step=at_least(message.step, 0, f"{field}.step"))
        case "checkpoint_id":
            checkpoint_id = text(message.checkpoint_id, f"{field}.checkpoint_id")
            return CheckpointRef(finetune_id, checkpoint_id=checkpoint_id)
        case None:
            raise InvalidField.of(f"{field}.selector", None, "checkpoint_id or step")
