"""Client of the trainer: finetunes, steps, metrics, checkpoints, adapters."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moontune.api.trainer.v1 import trainer_service_pb2 as pb
from moontune.api.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from moontune.checkpoints.digest import ADAPTER_FILES, adapter_digest
from moontune.clients.adapter_files import folder_chunks, receive
from moontune.clients.request_ids import new_request_id
from moontune.clients.service_client import ServiceClient
from moontune.errors import CheckpointCorrupt
from moontune.values.adapter import AdapterImport, AdapterManifest, ExportKind, ExportManifest
from moontune.values.finetune import Checkpoint, CheckpointRef, Finetune, FinetuneEvent, MetricPoint, NewFinetune
from moontune.values.logprobs import LogprobResult, RolloutBatch
from moontune.values.page import Page
from moontune.values.training import TrainStep, TrainStepResult
from moontune.wire.bundle import (
    EXPORT_KINDS,
    adapter_import_to_proto,
    adapter_manifest_from_proto,
    export_manifest_from_proto,
    file_chunk_to_proto,
)
from moontune.wire.checkpoint import checkpoint_from_proto, checkpoint_ref_to_proto
from moontune.wire.checks import each
from moontune.wire.finetune import finetune_from_proto, new_finetune_to_proto
from moontune.wire.finetune_event import finetune_event_from_proto
from moontune.wire.logprobs import logprob_result_from_proto, rollout_batch_to_proto
from moontune.wire.metric import metric_point_from_proto, metric_point_to_proto
from moontune.wire.moments import duration_to_proto
from moontune.wire.training import train_result_from_proto, train_step_to_messages

if TYPE_CHECKING:  # these classes exist in the stubs only
    from moontune.api.trainer.v1.trainer_service_pb2_grpc import TrainerServiceAsyncStub

WATCH_DEADLINE_S = 24 * 3600.0


class TrainerClient(ServiceClient):
    """Async client of TrainerService. Mutations without a request id get a new one, kept over retries."""

    default_deadline_s = 600.0

    @property
    def _stub(self) -> "TrainerServiceAsyncStub":
        return TrainerServiceStub(self._connection.channel)

    async def create_finetune(self, new: NewFinetune, *, deadline_s: float | None = None) -> Finetune:
        """Create a finetune; an empty `new.request_id` is filled in."""
        if not new.request_id:
            new = replace(new, request_id=new_request_id())
        request = new_finetune_to_proto(new)
        response = await self._connection.unary(self._stub.CreateFinetune, request, deadline_s)
        return finetune_from_proto(response.finetune)

    async def get_finetune(self, finetune_id: str, *, deadline_s: float | None = None) -> Finetune:
        """Read one finetune."""
        request = pb.GetFinetuneRequest(finetune_id=finetune_id)
        response = await self._connection.unary(self._stub.GetFinetune, request, deadline_s)
        return finetune_from_proto(response.finetune)

    async def list_finetunes(
        self, *, page_size: int = 0, page_token: str = "", deadline_s: float | None = None
    ) -> Page[Finetune]:
        """A page of the organisation's finetunes, newest first; page_size 0 takes the service's default."""
        request = pb.ListFinetunesRequest(page_size=page_size, page_token=page_token)
        response = await self._connection.unary(self._stub.ListFinetunes, request, deadline_s)
        return Page(each("finetunes", response.finetunes, finetune_from_proto), response.next_page_token)

    async def delete_finetune(
        self, finetune_id: str, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> None:
        """Delete a finetune with its checkpoints."""
        request = pb.DeleteFinetuneRequest(request_id=request_id or new_request_id(), finetune_id=finetune_id)
        await self._connection.unary(self._stub.DeleteFinetune, request, deadline_s)

    async def train_step(self, step: TrainStep, *, deadline_s: float | None = None) -> TrainStepResult:
        """Apply one optimiser step; an empty `step.request_id` is filled in.

        The groups are streamed one by one, each image's bytes once. A retry after a lost answer gets the stored
        result (`replayed`): the step is never applied twice.
        """
        order = step if step.request_id else replace(step, request_id=new_request_id())

        async def messages() -> AsyncIterator[pb.TrainStepRequest]:
            made = train_step_to_messages(order)
            # In a thread: groups may be read from a file, and a large image takes its time to encode.
            while (message := await asyncio.to_thread(next, made, None)) is not None:
                yield message

        response = await self._connection.upload(self._stub.TrainStep, messages, deadline_s)
        return train_result_from_proto(response.result)

    async def compute_logprobs(
        self, batches: Sequence[RolloutBatch], *, finetune_id: str = "", deadline_s: float | None = None
    ) -> LogprobResult:
        """Score rollouts under a finetune's present policy; "" is the bare base."""
        messages = [rollout_batch_to_proto(batch) for batch in batches]
        request = pb.ComputeLogprobsRequest(finetune_id=finetune_id, batches=messages)
        return logprob_result_from_proto(await self._connection.unary(self._stub.ComputeLogprobs, request, deadline_s))

    async def log_metrics(
        self,
        finetune_id: str,
        points: Sequence[MetricPoint],
        *,
        request_id: str | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """Add numbers of the caller's own to a finetune's history."""
        request = pb.LogMetricsRequest(
            request_id=request_id or new_request_id(),
            finetune_id=finetune_id,
            points=[metric_point_to_proto(point) for point in points],
        )
        await self._connection.unary(self._stub.LogMetrics, request, deadline_s)

    async def list_metrics(
        self,
        finetune_id: str,
        *,
        names: Sequence[str] = (),
        after_step: int | None = None,
        page_size: int = 0,
        page_token: str = "",
        deadline_s: float | None = None,
    ) -> Page[MetricPoint]:
        """A page of a finetune's history, by step, then by time."""
        request = pb.ListMetricsRequest(
            finetune_id=finetune_id, names=names, after_step=after_step, page_size=page_size, page_token=page_token
        )
        response = await self._connection.unary(self._stub.ListMetrics, request, deadline_s)
        return Page(each("points", response.points, metric_point_from_proto), response.next_page_token)

    async def save_checkpoint(
        self,
        finetune_id: str,
        *,
        step: int | None = None,
        time_to_live_s: float | None = None,
        client_state: bytes | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
    ) -> Checkpoint:
        """Save a step (the present one): listed, servable, kept. Returns when the store holds every file."""
        request = pb.SaveCheckpointRequest(
            request_id=request_id or new_request_id(),
            finetune_id=finetune_id,
            step=step,
            time_to_live=None if time_to_live_s is None else duration_to_proto(time_to_live_s),
            client_state=client_state,
        )
        response = await self._connection.unary(self._stub.SaveCheckpoint, request, deadline_s)
        return checkpoint_from_proto(response.checkpoint)

    async def list_checkpoints(
        self, finetune_id: str, *, page_size: int = 0, page_token: str = "", deadline_s: float | None = None
    ) -> Page[Checkpoint]:
        """A page of a finetune's checkpoints, latest step first."""
        request = pb.ListCheckpointsRequest(finetune_id=finetune_id, page_size=page_size, page_token=page_token)
        response = await self._connection.unary(self._stub.ListCheckpoints, request, deadline_s)
        return Page(each("checkpoints", response.checkpoints, checkpoint_from_proto), response.next_page_token)

    async def get_checkpoint(self, ref: CheckpointRef, *, deadline_s: float | None = None) -> Checkpoint:
        """Read one checkpoint."""
        request = pb.GetCheckpointRequest(ref=checkpoint_ref_to_proto(ref))
        response = await self._connection.unary(self._stub.GetCheckpoint, request, deadline_s)
        return checkpoint_from_proto(response.checkpoint)

    async def delete_checkpoint(
        self, ref: CheckpointRef, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> None:
        """Delete one checkpoint and free its space."""
        request = pb.DeleteCheckpointRequest(
            request_id=request_id or new_request_id(), ref=checkpoint_ref_to_proto(ref)
        )
        await self._connection.unary(self._stub.DeleteCheckpoint, request, deadline_s)

    async def restore_checkpoint(
        self, ref: CheckpointRef, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> tuple[Finetune, bytes | None]:
        """Set a finetune back to a checkpoint, bit for bit. Returns it and the client state kept with it."""
        request = pb.RestoreCheckpointRequest(
            request_id=request_id or new_request_id(), ref=checkpoint_ref_to_proto(ref)
        )
        response = await self._connection.unary(self._stub.RestoreCheckpoint, request, deadline_s)
        state = response.client_state if response.HasField("client_state") else None
        return finetune_from_proto(response.finetune), state

    async def download_adapter(
        self, finetune_id: str, folder: Path, *, step: int | None = None, deadline_s: float | None = None
    ) -> AdapterManifest:
        """Write an adapter's files to `folder` (made where missing), each checked against its digest.

        Nothing is left in the folder on an error. step: None is the present one.

        Raises:
            CheckpointCorrupt: bytes that do not have the manifest's digest.
        """
        request = pb.DownloadAdapterRequest(finetune_id=finetune_id, step=step)
        stub = self._stub
        messages = self._connection.stream(
            lambda timeout, metadata: stub.DownloadAdapter(request, timeout=timeout, metadata=metadata), deadline_s
        )
        async with contextlib.aclosing(messages):
            return await receive(messages, folder, _adapter_manifest)

    async def import_adapter(self, order: AdapterImport, folder: Path, *, deadline_s: float | None = None) -> Finetune:
        """Make a finetune from the files of a folder; `order.files` may be empty, it is filled from the folder."""
        files, chunks = folder_chunks(folder, [file.name for file in order.files])
        order = replace(order, files=files, request_id=order.request_id or new_request_id())

        async def messages() -> AsyncIterator[pb.ImportAdapterRequest]:
            yield pb.ImportAdapterRequest(header=adapter_import_to_proto(order))
            for chunk in chunks():
                yield pb.ImportAdapterRequest(chunk=file_chunk_to_proto(chunk))

        response = await self._connection.upload(self._stub.ImportAdapter, messages, deadline_s)
        return finetune_from_proto(response.finetune)

    async def export_checkpoint(
        self, ref: CheckpointRef, kind: ExportKind, folder: Path, *, deadline_s: float | None = None
    ) -> ExportManifest:
        """Write a checkpoint in another form to `folder`, each file checked against its digest."""
        request = pb.ExportCheckpointRequest(ref=checkpoint_ref_to_proto(ref), kind=EXPORT_KINDS.encode(kind))
        stub = self._stub
        messages = self._connection.stream(
            lambda timeout, metadata: stub.ExportCheckpoint(request, timeout=timeout, metadata=metadata), deadline_s
        )
        async with contextlib.aclosing(messages):
            return await receive(messages, folder, lambda message: export_manifest_from_proto(message.header))

    async def watch_finetune(
        self, finetune_id: str, *, after_step: int | None = None, deadline_s: float = WATCH_DEADLINE_S
    ) -> AsyncGenerator[FinetuneEvent, None]:
        """Its present state, then each step, checkpoint and metric as they happen.

        The caller's pace is the stream's: nothing is dropped. Ends with Draining (watch again with `after_step`), with
        FinetuneNotFound once the finetune is deleted, or at the deadline.
        """
        request = pb.WatchFinetuneRequest(finetune_id=finetune_id, after_step=after_step)
        stub = self._stub
        messages = self._connection.stream(
            lambda timeout, metadata: stub.WatchFinetune(request, timeout=timeout, metadata=metadata), deadline_s
        )
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield finetune_event_from_proto(message)


def _adapter_manifest(message: pb.DownloadAdapterResponse) -> AdapterManifest:
    manifest = adapter_manifest_from_proto(message.manifest)
    by_name = {file.name: file.sha256 for file in manifest.files}
    if set(by_name) != set(ADAPTER_FILES):
        raise CheckpointCorrupt(
            f"an adapter has the files {sorted(ADAPTER_FILES)}; its manifest names {sorted(by_name)}"
        )
    if adapter_digest(by_name) != manifest.policy.adapter_digest:
        raise CheckpointCorrupt(f"the manifest's files do not make up {manifest.policy.adapter_digest}")
    return manifest
