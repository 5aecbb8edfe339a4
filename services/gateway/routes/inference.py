"""POST /v1/query, /v1/point, /v1/detect, /v1/caption and GET /v1/models. Cancelled upstream when the caller leaves."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from ulid import ULID

from moontune.errors import InvalidField, MoontuneError, NotImplementedYet
from moontune.values.inference import InferenceEvent, InferenceResult, TextDelta
from moontune.values.output import CaptionOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.sampling import inference_defaults
from moontune.values.skill import Skill
from services.gateway.connection import while_connected
from services.gateway.convert import Json, output_json, settings_of, spatial_refs_of
from services.gateway.images import image_from_url
from services.gateway.schemas import CaptionBody, InferenceBody, ObjectBody, QueryBody
from services.gateway.state import GatewayState, state_of

router = APIRouter(prefix="/v1")


@router.post("/query", response_model=None)
async def query(request: Request, body: QueryBody) -> Json | Response:
    """Ask a question about an image, or without one."""
    state = state_of(request)
    asked = SkillRequest(
        Skill.QUERY,
        question=body.question,
        spatial_refs=spatial_refs_of(body.spatial_refs, "spatial_refs"),
        reasoning=bool(body.reasoning),
    )
    return await _text(request, state, body, asked, stream=body.stream)


@router.post("/caption", response_model=None)
async def caption(request: Request, body: CaptionBody) -> Json | Response:
    """Describe an image, where the base can."""
    asked = SkillRequest(Skill.CAPTION, length=body.length)
    return await _text(request, state_of(request), body, asked, stream=body.stream)


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
    """Not supported by any base here."""
    raise NotImplementedYet("segment is not supported by this base; detect gives boxes, point gives positions")


@router.get("/models", response_model=None)
async def models(request: Request) -> Json:
    """What can be named as `model`: the base, then saved steps."""
    listed = await state_of(request).upstream.list_models()
    return {
        "object": "list",
        "data": [
            {
                "id": model.name,
                "object": "model",
                "created": int(model.created_at.timestamp()) if model.created_at else 0,
                "owned_by": "moontune",
                "skills": [str(skill) for skill in model.skills],
                "adapter_digest": model.policy.adapter_digest,
            }
            for model in listed
        ],
    }


async def _plain(request: Request, body: InferenceBody, asked: SkillRequest) -> Json:
    state = state_of(request)
    model, asked = await _prepared(state, body, asked)
    result = await while_connected(request, state.upstream.answer(model, asked))
    return _answer_json(result, str(ULID()))


async def _text(
    request: Request, state: GatewayState, body: InferenceBody, asked: SkillRequest, *, stream: bool
) -> Json | Response:
    if not stream:
        return await _plain(request, body, asked)
    model, asked = await _prepared(state, body, asked)
    events = state.upstream.stream_answer(model, asked)
    try:
        first = await anext(events, None)  # an error before the first piece is an ordinary answer with its status
    except NotImplementedYet:
        # An inference service that does not stream: the whole answer as one piece is the same to the client.
        events = _as_one_piece(await while_connected(request, state.upstream.answer(model, asked)))
        first = await anext(events)
    lines = _sse(first, events, str(ULID()))
    return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _as_one_piece(result: InferenceResult) -> AsyncGenerator[InferenceEvent, None]:
    output = result.output
    text = output.answer if isinstance(output, QueryOutput) else ""
    yield TextDelta(output.caption if isinstance(output, CaptionOutput) else text)
    yield result


async def _prepared(state: GatewayState, body: InferenceBody, asked: SkillRequest) -> tuple[str, SkillRequest]:
    """The model string and the whole request, checked."""
    model = await state.models.resolve(body.model, body.adapter)
    image = None
    if body.image_url:
        image = await asyncio.to_thread(image_from_url, body.image_url, "image_url", state.settings.image_bytes)
    elif asked.skill is not Skill.QUERY:
        raise InvalidField.of("image_url", None, f"a data URL; {asked.skill} needs an image")
    whole = SkillRequest(
        skill=asked.skill,
        image=image,
        question=asked.question,
        object=asked.object,
        spatial_refs=asked.spatial_refs,
        reasoning=asked.reasoning,
        length=asked.length,
        settings=settings_of(body.settings, inference_defaults(asked.skill)),
    )
    whole.validate("request")
    return model, whole


def _answer_json(result: InferenceResult, request_id: str) -> Json:
    usage, policy = result.usage, result.policy
    return {
        **output_json(result.output),
        "finish_reason": str(result.finish_reason),
        "request_id": request_id,
        "metrics": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "prefill_time_ms": round(usage.prefill_s * 1000, 3),
            "decode_time_ms": round(usage.decode_s * 1000, 3),
            "ttft_ms": round((usage.queue_s + usage.prefill_s) * 1000, 3),
        },
        "moontune": {
            "base": policy.base,
            "base_digest": policy.base_digest,
            "finetune_id": policy.finetune_id,
            "step": policy.step,
            "adapter_digest": policy.adapter_digest,
        },
    }


async def _sse(
    first: InferenceEvent | None, events: AsyncGenerator[InferenceEvent, None], request_id: str
) -> AsyncGenerator[str, None]:
    """`{chunk, completed: false}` per piece of the answer, then `{completed: true}`. Reasoning is not streamed."""
    async with aclosing(events):
        event = first
        while event is not None:
            if isinstance(event, TextDelta) and not event.reasoning:
                yield _line({"chunk": event.text, "completed": False, "request_id": request_id})
            elif isinstance(event, InferenceResult):
                end: Json = {"chunk": "", "completed": True, "request_id": request_id}
                yield _line(end | {"finish_reason": str(event.finish_reason)})
                return
            try:
                event = await anext(events, None)
            except MoontuneError as error:
                yield _line({"completed": True, "error": {"message": error.message, "code": error.reason}})
                return


def _line(data: Json) -> str:
    return f"data: {json.dumps(data)}\n\n"
