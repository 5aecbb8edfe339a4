"""Client of the inference service: answers of any policy, by model string."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc

from moontune.api.inference.v1 import inference_service_pb2 as pb
from moontune.api.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from moontune.clients.request_ids import new_request_id
from moontune.clients.service_client import ServiceClient
from moontune.values.adapter import AdapterStatus
from moontune.values.inference import InferenceEvent, InferenceRequest, InferenceResult, ModelInfo
from moontune.values.page import Page
from moontune.values.request import SkillRequest
from moontune.values.skill import Skill
from moontune.wire import inference as wire
from moontune.wire.adapter import adapter_status_from_proto
from moontune.wire.answer import EventMessage, answer_from_proto, event_from_proto
from moontune.wire.checks import each
from moontune.wire.model_info import model_info_from_proto

if TYPE_CHECKING:  # these classes exist in the stubs only
    from moontune.api.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub


class InferenceClient(ServiceClient):
    """Async client of InferenceService."""

    @property
    def _stub(self) -> "InferenceServiceAsyncStub":
        return InferenceServiceStub(self._connection.channel)

    async def answer(self, order: InferenceRequest, *, deadline_s: float | None = None) -> InferenceResult:
        """Answer a request of any skill; an image's bytes are sent once and its digest afterwards."""

        async def send(request: SkillRequest) -> InferenceResult:
            return await self._answer(replace(order, request=request), deadline_s)

        return await self._images.call(order.request, send)

    async def stream(
        self, order: InferenceRequest, *, deadline_s: float | None = None
    ) -> AsyncGenerator[InferenceEvent, None]:
        """The pieces of an answer as they are decided; the result, which holds everything, is the last."""
        messages = self._connection.stream(
            lambda timeout, metadata: self._open_stream(order, timeout, metadata), deadline_s
        )
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield event_from_proto(message)

    async def list_models(
        self, *, page_size: int = 0, page_token: str = "", deadline_s: float | None = None
    ) -> Page[ModelInfo]:
        """A page of what can be named as a model."""
        request = pb.ListModelsRequest(page_size=page_size, page_token=page_token)
        response = await self._connection.unary(self._stub.ListModels, request, deadline_s)
        return Page(each("models", response.models, model_info_from_proto), response.next_page_token)

    async def load_adapter(
        self, model: str, *, pinned: bool = False, request_id: str | None = None, deadline_s: float | None = None
    ) -> AdapterStatus:
        """Load an adapter before it is asked; pinned ones are not evicted."""
        request = pb.LoadAdapterRequest(request_id=request_id or new_request_id(), model=model, pinned=pinned)
        response = await self._connection.unary(self._stub.LoadAdapter, request, deadline_s)
        return adapter_status_from_proto(response.status)

    async def unload_adapter(
        self, model: str, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> AdapterStatus:
        """Let go of an adapter; its requests under way finish."""
        request = pb.UnloadAdapterRequest(request_id=request_id or new_request_id(), model=model)
        response = await self._connection.unary(self._stub.UnloadAdapter, request, deadline_s)
        return adapter_status_from_proto(response.status)

    async def adapter_status(self, model: str, *, deadline_s: float | None = None) -> AdapterStatus:
        """Where an adapter is in that process."""
        request = pb.GetAdapterStatusRequest(model=model)
        response = await self._connection.unary(self._stub.GetAdapterStatus, request, deadline_s)
        return adapter_status_from_proto(response.status)

    async def _answer(self, order: InferenceRequest, deadline_s: float | None) -> InferenceResult:
        connection, stub = self._connection, self._stub
        match order.request.skill:
            case Skill.QUERY:
                message = await connection.unary(stub.Query, wire.query_request_to_proto(order), deadline_s)
            case Skill.POINT:
                message = await connection.unary(stub.Point, wire.point_request_to_proto(order), deadline_s)
            case Skill.DETECT:
                message = await connection.unary(stub.Detect, wire.detect_request_to_proto(order), deadline_s)
            case Skill.CAPTION:
                message = await connection.unary(stub.Caption, wire.caption_request_to_proto(order), deadline_s)
        return answer_from_proto(message)

    def _open_stream(
        self, order: InferenceRequest, timeout_s: float, metadata: grpc.aio.Metadata
    ) -> AsyncIterable[EventMessage]:
        stub = self._stub
        match order.request.skill:
            case Skill.QUERY:
                message = wire.stream_query_request_to_proto(order)
                return stub.StreamQuery(message, timeout=timeout_s, metadata=metadata)
            case Skill.POINT:
                message = wire.stream_point_request_to_proto(order)
                return stub.StreamPoint(message, timeout=timeout_s, metadata=metadata)
            case Skill.DETECT:
                message = wire.stream_detect_request_to_proto(order)
                return stub.StreamDetect(message, timeout=timeout_s, metadata=metadata)
            case Skill.CAPTION:
                message = wire.stream_caption_request_to_proto(order)
                return stub.StreamCaption(message, timeout=timeout_s, metadata=metadata)
