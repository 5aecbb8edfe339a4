"""What WatchFinetune tells."""

from moontune.api.trainer.v1 import trainer_service_pb2
from moontune.errors import InvalidField
from moontune.values.finetune import Checkpoint, Finetune, FinetuneEvent, MetricPoint, StepApplied
from moontune.wire.checkpoint import checkpoint_from_proto, checkpoint_to_proto
from moontune.wire.checks import at_least, encodes, finite_map, required
from moontune.wire.finetune import finetune_from_proto, finetune_to_proto
from moontune.wire.metric import metric_point_from_proto, metric_point_to_proto
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto


@encodes("event")
def finetune_event_to_proto(event: FinetuneEvent) -> trainer_service_pb2.WatchFinetuneResponse:
    """The message."""
    match event:
        case Finetune():
            return trainer_service_pb2.WatchFinetuneResponse(finetune=finetune_to_proto(event))
        case StepApplied():
            step = trainer_service_pb2.StepApplied(
                step=event.step,
                adapter_digest=event.adapter_digest,
                metrics=event.metrics,
                applied_at=timestamp_to_proto(event.applied_at),
            )
            return trainer_service_pb2.WatchFinetuneResponse(step=step)
        case Checkpoint():
            return trainer_service_pb2.WatchFinetuneResponse(checkpoint=checkpoint_to_proto(event))
        case MetricPoint():
            return trainer_service_pb2.WatchFinetuneResponse(metric=metric_point_to_proto(event))


def finetune_event_from_proto(
    message: trainer_service_pb2.WatchFinetuneResponse, field: str = "event"
) -> FinetuneEvent:
    """The value."""
    match message.WhichOneof("event"):
        case "finetune":
            return finetune_from_proto(message.finetune, f"{field}.finetune")
        case "step":
            return _step_from_proto(message.step, f"{field}.step")
        case "checkpoint":
            return checkpoint_from_proto(message.checkpoint, f"{field}.checkpoint")
        case "metric":
            return metric_point_from_proto(message.metric, f"{field}.metric")
        case None:
            raise InvalidField.of(field, None, "finetune, step, checkpoint or metric")


def _step_from_proto(message: trainer_service_pb2.StepApplied, field: str) -> StepApplied:
    required(message.HasField("applied_at"), f"{field}.applied_at", "a time")
    return StepApplied(
        step=at_least(message.step, 1, f"{field}.step"),
        adapter_digest=message.adapter_digest,
        applied_at=timestamp_from_proto(message.applied_at, f"{field}.applied_at"),
        metrics=finite_map(message.metrics, f"{field}.metrics"),
    )
