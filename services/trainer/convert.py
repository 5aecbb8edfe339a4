"""Messages of the trainer's contract to values and back, where `moontune.wire` has no noun for a whole request."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from google.protobuf.message import Message

from moontune.api.trainer.v1 import trainer_service_pb2 as pb
from moontune.errors import InvalidField
from moontune.values.adapter import AdapterImport, FileChunk
from moontune.values.finetune import Checkpoint, Finetune, MetricPoint
from moontune.values.logprobs import RolloutBatch
from moontune.values.page import Page
from moontune.values.training import Group, TrainStep
from moontune.wire import checks
from moontune.wire.bundle import adapter_import_from_proto, file_chunk_from_proto
from moontune.wire.checkpoint import checkpoint_to_proto
from moontune.wire.finetune import finetune_to_proto
from moontune.wire.logprobs import rollout_batch_from_proto
from moontune.wire.metric import metric_point_from_proto, metric_point_to_proto
from moontune.wire.moments import duration_from_proto
from moontune.wire.training import (
    client_state,
    group_from_proto,
    group_to_proto,
    train_header_from_proto,
    train_header_to_proto,
)
from services.trainer.saves import SaveOrder

MAX_METRIC_POINTS = 1000
MAX_BATCHES = 256
DRAIN_S = 5.0


def payload_digest(message: Message) -> str:
    """SHA-256 of a unary request, 64 hex digits."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


class StepDigest:
    """SHA-256 of a whole TrainStep, over its messages with images by digest: how the bytes came does not matter."""

    def __init__(self, step: TrainStep, group_count: int) -> None:
        header = train_header_to_proto(step)
        header.group_count = group_count
        self._digest = hashlib.sha256(header.SerializeToString(deterministic=True))

    def add(self, group: Group) -> None:
        """Count one more group, its image by name."""
        content = group_to_proto(group).SerializeToString(deterministic=True)
        self._digest.update(hashlib.sha256(content).digest())

    def hexdigest(self) -> str:
        """64 hex digits."""
        return self._digest.hexdigest()


async def read_header(messages: AsyncIterator[pb.TrainStepRequest]) -> tuple[TrainStep, int]:
    """The header, which must come first: the order without its groups, and how many follow."""
    async for message in messages:
        if message.WhichOneof("payload") != "header":
            raise InvalidField.of("payload", message.WhichOneof("payload"), "header in the first message")
        return train_header_from_proto(message.header)
    raise InvalidField.of("payload", None, "a header, then the groups; the stream was empty")


async def read_groups(messages: AsyncIterable[pb.TrainStepRequest]) -> AsyncIterator[Group]:
    """The groups behind the header, one message each."""
    index = 0
    async for message in messages:
        if message.WhichOneof("payload") != "group":
            raise InvalidField.of(f"groups[{index}]", message.WhichOneof("payload"), "group after the header")
        # Off the event loop: a group of 32 MiB takes long enough to be seen in health checks.
        yield await asyncio.to_thread(group_from_proto, message.group, f"groups[{index}]")
        index += 1


async def read_import_header(messages: AsyncIterator[pb.ImportAdapterRequest]) -> AdapterImport:
    """What to import, which must come first."""
    async for message in messages:
        if message.WhichOneof("payload") != "header":
            raise InvalidField.of("payload", message.WhichOneof("payload"), "header in the first message")
        return adapter_import_from_proto(message.header)
    raise InvalidField.of("payload", None, "a header, then chunks; the stream was empty")


async def read_chunks(messages: AsyncIterable[pb.ImportAdapterRequest]) -> AsyncIterator[FileChunk]:
    """The chunks behind the header."""
    async for message in messages:
        if message.WhichOneof("payload") != "chunk":
            raise InvalidField.of("payload", message.WhichOneof("payload"), "chunk after the header")
        yield file_chunk_from_proto(message.chunk)


async def drain(messages: AsyncIterable[object]) -> None:
    """Read a refused stream to its end, DRAIN_S at most, before it is answered.

    A Python client (grpc.aio) that is still writing when the answer comes reports an internal error of its own in
    place of the answer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in messages:
                pass


def save_order(request: pb.SaveCheckpointRequest) -> SaveOrder:
    """What to save."""
    time_to_live_s = None
    if request.HasField("time_to_live"):
        time_to_live_s = duration_from_proto(request.time_to_live, "time_to_live")
        if time_to_live_s == 0:
            raise InvalidField.of("time_to_live", 0, "more than 0 seconds, or unset for ever")
    return SaveOrder(
        request_id=checks.request_id(request.request_id),
        finetune_id=checks.text(request.finetune_id, "finetune_id"),
        step=checks.at_least(request.step, 0, "step") if request.HasField("step") else None,
        time_to_live_s=time_to_live_s,
        client_state=client_state(request),
    )


def metric_points(request: pb.LogMetricsRequest) -> tuple[MetricPoint, ...]:
    """The points to log."""
    if not 1 <= len(request.points) <= MAX_METRIC_POINTS:
        raise InvalidField.of("points", f"{len(request.points)} points", f"1 to {MAX_METRIC_POINTS}")
    return checks.each("points", request.points, metric_point_from_proto)


def rollout_batches(request: pb.ComputeLogprobsRequest) -> tuple[RolloutBatch, ...]:
    """The rollouts to score."""
    if not 1 <= len(request.batches) <= MAX_BATCHES:
        raise InvalidField.of("batches", f"{len(request.batches)} batches", f"1 to {MAX_BATCHES}")
    return checks.each("batches", request.batches, rollout_batch_from_proto)


def finetunes_response(page: Page[Finetune]) -> pb.ListFinetunesResponse:
    """One page."""
    return pb.ListFinetunesResponse(
        finetunes=[finetune_to_proto(finetune) for finetune in page.items], next_page_token=page.next_page_token
    )


def checkpoints_response(page: Page[Checkpoint]) -> pb.ListCheckpointsResponse:
    """One page."""
    return pb.ListCheckpointsResponse(
        checkpoints=[checkpoint_to_proto(checkpoint) for checkpoint in page.items],
        next_page_token=page.next_page_token,
    )


def metrics_response(page: Page[MetricPoint]) -> pb.ListMetricsResponse:
    """One page."""
    return pb.ListMetricsResponse(
        points=[metric_point_to_proto(point) for point in page.items], next_page_token=page.next_page_token
    )
