"""InferenceService on the chassis: convert, call, convert."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from moontune.api.inference.v1 import inference_service_pb2 as pb
from moontune.api.inference.v1 import inference_service_pb2_grpc
from moontune.auth.context import current_principal
from moontune.checkpoints import CheckpointStore
from moontune.engine.gauges import refresh_forever
from moontune.engine.image_store import ImageStore
from moontune.serving.chassis import Chassis
from moontune.serving.engine_service import adapter_folders
from moontune.values.inference import InferenceEvent, InferenceResult
from moontune.wire.adapter import adapter_status_to_proto
from moontune.wire.answer import (
    caption_answer_to_proto,
    caption_event_to_proto,
    detect_answer_to_proto,
    detect_event_to_proto,
    point_answer_to_proto,
    point_event_to_proto,
    query_answer_to_proto,
    query_event_to_proto,
)
from moontune.wire.checks import request_id, text
from moontune.wire.inference import InferenceMessage, inference_request_from_proto
from moontune.wire.model_info import model_info_to_proto
from services.inference.adapters import ProcessAdapters
from services.inference.answerer import Answerer
from services.inference.config import InferenceSettings
from services.inference.convert import page_from
from services.inference.models import Models


async def build(chassis: Chassis, settings: InferenceSettings) -> None:
    """Register the service on the chassis."""
    assert chassis.worker is not None, "the inference service needs a model worker"
    store = await asyncio.to_thread(CheckpointStore, settings.checkpoint_store)
    folders = adapter_folders(chassis, settings)
    models = Models(store, folders, chassis.worker, settings.base_aliases, settings.recheck_s)
    answerer = Answerer(chassis.worker, models, ImageStore(settings.image_bytes), chassis.metrics)
    servicer = InferenceServicer(answerer, models, ProcessAdapters(chassis.worker, models))
    chassis.add(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)
    chassis.spawn(refresh_forever(chassis.worker, chassis.metrics), "engine gauges")


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers, whole or in pieces, and the adapters of this process."""

    def __init__(self, answerer: Answerer, models: Models, adapters: ProcessAdapters) -> None:
        """All are the process's own."""
        self._answerer, self._models, self._adapters = answerer, models, adapters

    async def Query(self, request: pb.QueryRequest, context: Any) -> pb.QueryResponse:  # noqa: N802
        """Answer in words."""
        return query_answer_to_proto(await self._answer(request))

    async def Point(self, request: pb.PointRequest, context: Any) -> pb.PointResponse:  # noqa: N802
        """Find positions."""
        return point_answer_to_proto(await self._answer(request))

    async def Detect(self, request: pb.DetectRequest, context: Any) -> pb.DetectResponse:  # noqa: N802
        """Find boxes."""
        return detect_answer_to_proto(await self._answer(request))

    async def Caption(self, request: pb.CaptionRequest, context: Any) -> pb.CaptionResponse:  # noqa: N802
        """Describe an image; a base without captions says so."""
        return caption_answer_to_proto(await self._answer(request))

    async def StreamQuery(  # noqa: N802
        self, request: pb.StreamQueryRequest, context: Any
    ) -> AsyncIterator[pb.StreamQueryResponse]:
        """Answer in words as they are decided."""
        async with contextlib.aclosing(self._stream(request)) as events:
            async for event in events:
                yield query_event_to_proto(event)

    async def StreamPoint(  # noqa: N802
        self, request: pb.StreamPointRequest, context: Any
    ) -> AsyncIterator[pb.StreamPointResponse]:
        """Find positions, each sent as it is decided."""
        async with contextlib.aclosing(self._stream(request)) as events:
            async for event in events:
                yield point_event_to_proto(event)

    async def StreamDetect(  # noqa: N802
        self, request: pb.StreamDetectRequest, context: Any
    ) -> AsyncIterator[pb.StreamDetectResponse]:
        """Find boxes, each sent as it is decided."""
        async with contextlib.aclosing(self._stream(request)) as events:
            async for event in events:
                yield detect_event_to_proto(event)

    async def StreamCaption(  # noqa: N802
        self, request: pb.StreamCaptionRequest, context: Any
    ) -> AsyncIterator[pb.StreamCaptionResponse]:
        """Describe an image as the words are decided."""
        async with contextlib.aclosing(self._stream(request)) as events:
            async for event in events:
                yield caption_event_to_proto(event)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """The base, then the organisation's saved steps."""
        models = await self._models.named(current_principal().organisation)
        page, token = page_from(request, [model.name for model in models])
        return pb.ListModelsResponse(
            models=[model_info_to_proto(model) for model in models[page]], next_page_token=token
        )

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Any) -> pb.LoadAdapterResponse:  # noqa: N802
        """Bring an adapter in."""
        request_id(request.request_id)
        status = await self._adapters.load(
            text(request.model, "model"), current_principal().organisation, pinned=request.pinned
        )
        return pb.LoadAdapterResponse(status=adapter_status_to_proto(status))

    async def UnloadAdapter(  # noqa: N802
        self, request: pb.UnloadAdapterRequest, context: Any
    ) -> pb.UnloadAdapterResponse:
        """Take an adapter out."""
        request_id(request.request_id)
        status = await self._adapters.unload(text(request.model, "model"), current_principal().organisation)
        return pb.UnloadAdapterResponse(status=adapter_status_to_proto(status))

    async def GetAdapterStatus(  # noqa: N802
        self, request: pb.GetAdapterStatusRequest, context: Any
    ) -> pb.GetAdapterStatusResponse:
        """Where an adapter is."""
        status = await self._adapters.status(text(request.model, "model"), current_principal().organisation)
        return pb.GetAdapterStatusResponse(status=adapter_status_to_proto(status))

    async def _answer(self, request: InferenceMessage) -> InferenceResult:
        return await self._answerer.answer(inference_request_from_proto(request), current_principal().organisation)

    def _stream(self, request: InferenceMessage) -> AsyncGenerator[InferenceEvent, None]:
        return self._answerer.stream(inference_request_from_proto(request), current_principal().organisation)
