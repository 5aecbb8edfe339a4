"""POST /v1/query, /v1/point, /v1/detect, /v1/caption, /v1/segment. Cancelled upstream when the caller leaves."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response
from ulid import ULID

from moontune.errors import InvalidField, MoontuneError, NotImplementedYet
from moontune.values.inference import InferenceEvent, InferenceResult, TextDelta
from moontune.values.request import SkillRequest
from moontune.values.skill import Skill
from services.gateway.asking import answer_json, answered, prepared, streamed
from services.gateway.convert import Json, spatial_refs_of
from services.gateway.event_stream import EventStream, error_line, line
from services.gateway.json_route import JsonRoute
from services.gateway.schemas import CaptionBody, InferenceBody, ObjectBody, QueryBody
from services.gateway.state import state_of

router = APIRouter(prefix="/v1", tags=["inference"], route_class=JsonRoute)


@router.post("/query", response_model=None)
async def query(request: Request, body: QueryBody) -> Json | Response:
    """Ask a question about an image, or without one."""
    refs = spatial_refs_of(body.spatial_refs, "spatial_refs")
    asked = SkillRequest(Skill.QUERY, question=body.question, spatial_refs=refs, reasoning=bool(body.reasoning))
    return await _text(request, body, asked)


@router.post("/caption", response_model=None)
async def caption(request: Request, body: CaptionBody) -> Json | Response:
    """Describe an image, where the base can."""
    return await _text(request, body, SkillRequest(Skill.CAPTION, length=body.length))


@router.post("/point", response_model=None)
async def point(request: Request, body: ObjectBody) -> Json:
    """Find the positions of an object."""
    refs = spatial_refs_of(body.spatial_refs, "spatial_refs")
    return await _plain(request, body, SkillRequest(Skill.POINT, object=body.object, spatial_refs=refs))


@router.post("/detect", response_model=None)
async def detect(request: Request, body: ObjectBody) -> Json:
    """Find the boxes of an object."""
    if body.spatial_refs:
        raise InvalidField.of("spatial_refs", len(body.spatial_refs), "none for detect")
    return await _plain(request, body, SkillRequest(Skill.DETECT, object=body.object))


@router.post("/segment", response_model=None)
async def segment(request: Request, body: ObjectBody) -> Json:
    """Not supported by any base here: 404 with the code NOT_IMPLEMENTED_YET."""
    raise NotImplementedYet("segment is not supported by this base; detect gives boxes, point gives positions")


async def _plain(request: Request, body: InferenceBody, asked: SkillRequest) -> Json:
    if body.stream:
        raise InvalidField.of("stream", True, f"false: {asked.skill} answers at once; query and caption stream")
    state = state_of(request)
    model, whole = await prepared(
        state, asked, model=body.model, adapter=body.adapter, image_url=body.image_url, settings=body.settings
    )
    return answer_json(await answered(request, state, model, whole), str(ULID()))


async def _text(request: Request, body: InferenceBody, asked: SkillRequest) -> Json | Response:
    if not body.stream:
        return await _plain(request, body, asked)
    state = state_of(request)
    model, whole = await prepared(
        state, asked, model=body.model, adapter=body.adapter, image_url=body.image_url, settings=body.settings
    )
    first, others = await streamed(request, state, model, whole)
    return EventStream(_lines(first, others, str(ULID())))


async def _lines(
    first: InferenceEvent, others: AsyncGenerator[InferenceEvent, None], request_id: str
) -> AsyncGenerator[str, None]:
    """`{chunk, completed: false}` per piece of the answer, then `{completed: true}`. Reasoning is not streamed."""
    async with aclosing(others):
        event: InferenceEvent | None = first
        while event is not None:
            if isinstance(event, TextDelta) and not event.reasoning:
                yield line({"chunk": event.text, "completed": False, "request_id": request_id})
            elif isinstance(event, InferenceResult):
                end: Json = {"chunk": "", "completed": True, "request_id": request_id}
                yield line(end | {"finish_reason": str(event.finish_reason)})
                return
            try:
                event = await anext(others, None)
            except MoontuneError as error:
                yield error_line(error, completed=True)
                return
