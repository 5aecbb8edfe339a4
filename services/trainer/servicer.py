"""TrainerService on the wire: convert, call, convert."""
# ruff: noqa: N802  (rpcs have their own names)

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from moontune.api.trainer.v1 import trainer_service_pb2 as pb
from moontune.api.trainer.v1 import trainer_service_pb2_grpc as pb_grpc
from moontune.auth.context import current_principal
from moontune.serving.chassis import Chassis
from moontune.telemetry import names
from moontune.values.training import TrainStepResult
from moontune.wire import checks
from moontune.wire.bundle import (
    EXPORT_KINDS,
    adapter_import_to_proto,
    adapter_manifest_to_proto,
    chunks_of,
    export_manifest_to_proto,
    file_chunk_to_proto,
)
from moontune.wire.checkpoint import checkpoint_ref_from_proto, checkpoint_to_proto
from moontune.wire.finetune import finetune_to_proto, new_finetune_from_proto
from moontune.wire.finetune_event import finetune_event_to_proto
from moontune.wire.logprobs import logprob_result_to_proto
from moontune.wire.training import train_result_to_proto
from services.trainer import convert
from services.trainer.adapter_files import file_blocks
from services.trainer.assembly import Trainer, assemble
from services.trainer.config import TrainerSettings
from services.trainer.convert import payload_digest
from services.trainer.paging import page_size_of

Context = Any
"""grpc's servicer context; nothing here uses it: callers, deadlines and errors are the chassis's."""


async def build(chassis: Chassis, settings: TrainerSettings) -> None:
    """Put the trainer together and register the service."""
    trainer = assemble(chassis, settings)
    chassis.add(pb_grpc.add_TrainerServiceServicer_to_server, TrainerServicer(chassis, trainer))
    chassis.spawn(trainer.retention.sweep_forever(), "retention")


class TrainerServicer(pb_grpc.TrainerServiceServicer):
    """Every rpc of TrainerService."""

    def __init__(self, chassis: Chassis, trainer: Trainer) -> None:
        self._chassis, self._trainer = chassis, trainer

    async def CreateFinetune(self, request: pb.CreateFinetuneRequest, context: Context) -> pb.CreateFinetuneResponse:
        """Create a finetune, or answer the one of the same name and settings."""
        new = new_finetune_from_proto(request)
        finetune = await self._trainer.finetunes.create(_organisation(), new, payload_digest(request))
        return pb.CreateFinetuneResponse(finetune=finetune_to_proto(finetune))

    async def GetFinetune(self, request: pb.GetFinetuneRequest, context: Context) -> pb.GetFinetuneResponse:
        """Read one finetune."""
        finetune = await self._trainer.finetunes.get(_organisation(), checks.text(request.finetune_id, "finetune_id"))
        return pb.GetFinetuneResponse(finetune=finetune_to_proto(finetune))

    async def ListFinetunes(self, request: pb.ListFinetunesRequest, context: Context) -> pb.ListFinetunesResponse:
        """One page of finetunes."""
        size = page_size_of(request.page_size, 100, 1000)
        return convert.finetunes_response(await self._trainer.finetunes.list(_organisation(), size, request.page_token))

    async def DeleteFinetune(self, request: pb.DeleteFinetuneRequest, context: Context) -> pb.DeleteFinetuneResponse:
        """Delete a finetune with its checkpoints."""
        request_id = checks.request_id(request.request_id)
        finetune_id = checks.text(request.finetune_id, "finetune_id")
        await self._trainer.finetunes.delete(_organisation(), request_id, finetune_id, payload_digest(request))
        return pb.DeleteFinetuneResponse()

    async def TrainStep(
        self, request_iterator: AsyncIterator[pb.TrainStepRequest], context: Context
    ) -> pb.TrainStepResponse:
        """Apply one optimiser step."""
        messages = aiter(request_iterator)
        try:
            step, count = await convert.read_header(messages)
            payload = convert.StepDigest(step, count)
            groups = convert.read_groups(messages)
            result = await self._trainer.steps.apply(_organisation(), step, count, groups, payload)
        except Exception:
            await convert.drain(messages)
            raise
        self._observe(result)
        if result.applied and not result.replayed:
            self._chassis.spawn(self._trainer.retention.tidy(step.finetune_id), "retention")
        return pb.TrainStepResponse(result=train_result_to_proto(result))

    async def ComputeLogprobs(self, request: pb.ComputeLogprobsRequest, context: Context) -> pb.ComputeLogprobsResponse:
        """Score rollouts without training."""
        batches = convert.rollout_batches(request)
        return logprob_result_to_proto(
            await self._trainer.logprobs.compute(_organisation(), request.finetune_id, batches)
        )

    async def LogMetrics(self, request: pb.LogMetricsRequest, context: Context) -> pb.LogMetricsResponse:
        """Add the caller's numbers."""
        await self._trainer.metrics_log.log(
            _organisation(),
            checks.request_id(request.request_id),
            checks.text(request.finetune_id, "finetune_id"),
            convert.metric_points(request),
            payload_digest(request),
        )
        return pb.LogMetricsResponse()

    async def ListMetrics(self, request: pb.ListMetricsRequest, context: Context) -> pb.ListMetricsResponse:
        """One page of a finetune's history."""
        page = await self._trainer.metrics_log.list(
            _organisation(),
            checks.text(request.finetune_id, "finetune_id"),
            page_size_of(request.page_size, 1000, 10_000),
            request.page_token,
            list(request.names),
            request.after_step if request.HasField("after_step") else None,
        )
        return convert.metrics_response(page)

    async def SaveCheckpoint(self, request: pb.SaveCheckpointRequest, context: Context) -> pb.SaveCheckpointResponse:
        """Save a step."""
        checkpoint = await self._trainer.saves.save(
            _organisation(), convert.save_order(request), payload_digest(request)
        )
        self._chassis.metrics.counter(names.CHECKPOINTS, outcome="saved").inc()
        self._chassis.metrics.counter(names.CHECKPOINT_BYTES).inc(checkpoint.size_bytes)
        return pb.SaveCheckpointResponse(checkpoint=checkpoint_to_proto(checkpoint))

    async def ListCheckpoints(self, request: pb.ListCheckpointsRequest, context: Context) -> pb.ListCheckpointsResponse:
        """One page of checkpoints."""
        finetune_id = checks.text(request.finetune_id, "finetune_id")
        size = page_size_of(request.page_size, 100, 1000)
        return convert.checkpoints_response(
            await self._trainer.saves.list(_organisation(), finetune_id, size, request.page_token)
        )

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.GetCheckpointResponse:
        """Read one checkpoint."""
        checkpoint = await self._trainer.saves.get(_organisation(), checkpoint_ref_from_proto(request.ref))
        return pb.GetCheckpointResponse(checkpoint=checkpoint_to_proto(checkpoint))

    async def DeleteCheckpoint(
        self, request: pb.DeleteCheckpointRequest, context: Context
    ) -> pb.DeleteCheckpointResponse:
        """Delete one checkpoint."""
        request_id, ref = checks.request_id(request.request_id), checkpoint_ref_from_proto(request.ref)
        await self._trainer.saves.delete(_organisation(), request_id, ref, payload_digest(request))
        return pb.DeleteCheckpointResponse()

    async def RestoreCheckpoint(
        self, request: pb.RestoreCheckpointRequest, context: Context
    ) -> pb.RestoreCheckpointResponse:
        """Set a finetune back to a checkpoint."""
        request_id, ref = checks.request_id(request.request_id), checkpoint_ref_from_proto(request.ref)
        restored = await self._trainer.saves.restore(_organisation(), request_id, ref, payload_digest(request))
        return pb.RestoreCheckpointResponse(
            finetune=finetune_to_proto(restored.finetune), client_state=restored.client_state
        )

    async def DownloadAdapter(
        self, request: pb.DownloadAdapterRequest, context: Context
    ) -> AsyncGenerator[pb.DownloadAdapterResponse]:
        """Stream an adapter's files."""
        step = checks.at_least(request.step, 0, "step") if request.HasField("step") else None
        finetune_id = checks.text(request.finetune_id, "finetune_id")
        async with self._trainer.adapters.open(_organisation(), finetune_id, step) as files:
            yield pb.DownloadAdapterResponse(manifest=adapter_manifest_to_proto(files.manifest))
            for file in files.manifest.files:
                for chunk in chunks_of(file.name, file_blocks(files.folder / file.name)):
                    yield pb.DownloadAdapterResponse(chunk=file_chunk_to_proto(chunk))
            policy = files.manifest.policy
            self._trainer.publication.downloaded(finetune_id, policy.step, files.applied_at)

    async def ImportAdapter(
        self, request_iterator: AsyncIterator[pb.ImportAdapterRequest], context: Context
    ) -> pb.ImportAdapterResponse:
        """Make a finetune from an adapter's files."""
        messages = aiter(request_iterator)
        try:
            order = await convert.read_import_header(messages)
            chunks = convert.read_chunks(messages)
            digest = payload_digest(adapter_import_to_proto(order))
            finetune = await self._trainer.imports.bring_in(_organisation(), order, chunks, digest)
        except Exception:
            await convert.drain(messages)
            raise
        return pb.ImportAdapterResponse(finetune=finetune_to_proto(finetune))

    async def ExportCheckpoint(
        self, request: pb.ExportCheckpointRequest, context: Context
    ) -> AsyncGenerator[pb.ExportCheckpointResponse]:
        """Stream a checkpoint in another form."""
        ref, kind = checkpoint_ref_from_proto(request.ref), EXPORT_KINDS.decode(request.kind, "kind")
        async with self._trainer.exports.open(_organisation(), ref, kind) as files:
            yield pb.ExportCheckpointResponse(header=export_manifest_to_proto(files.manifest))
            for file in files.manifest.files:
                for chunk in chunks_of(file.name, file_blocks(files.folder / file.name)):
                    yield pb.ExportCheckpointResponse(chunk=file_chunk_to_proto(chunk))

    async def WatchFinetune(
        self, request: pb.WatchFinetuneRequest, context: Context
    ) -> AsyncGenerator[pb.WatchFinetuneResponse]:
        """Stream what happens to a finetune."""
        finetune_id = checks.text(request.finetune_id, "finetune_id")
        after_step = checks.at_least(request.after_step, 0, "after_step") if request.HasField("after_step") else None
        async with aclosing(self._trainer.watch.events(_organisation(), finetune_id, after_step)) as events:
            async for event in events:
                yield finetune_event_to_proto(event)

    def _observe(self, result: TrainStepResult) -> None:
        outcome = "replayed" if result.replayed else "applied" if result.applied else "dropped"
        metrics = self._chassis.metrics
        metrics.counter(names.TRAIN_STEPS, outcome=outcome).inc()
        if result.replayed:
            return
        for key, value in result.metrics.items():
            if key.startswith("seconds_"):
                metrics.histogram(names.TRAIN_PHASE_SECONDS, phase=key.removeprefix("seconds_")).observe(value)
            else:
                metrics.gauge(names.TRAIN_HEALTH, key=key).set(value)


def _organisation() -> str:
    return current_principal().organisation
