"""POST /v1/chat/completions: OpenAI's form over query, plain and streamed."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response
from ulid import ULID

from moontune.errors import MoontuneError
from moontune.values.inference import InferenceEvent, InferenceResult, TextDelta
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import FinishReason
from moontune.values.skill import Skill
from services.gateway.asking import answered, policy_json, prepared, streamed
from services.gateway.conversation import conversation_of
from services.gateway.convert import Json
from services.gateway.event_stream import EventStream, error_line, line
from services.gateway.json_route import JsonRoute
from services.gateway.schemas import ChatBody, SettingsBody
from services.gateway.state import state_of

router = APIRouter(prefix="/v1", tags=["inference"], route_class=JsonRoute)


@router.post("/chat/completions", response_model=None)
async def chat(request: Request, body: ChatBody) -> Json | Response:
    """Answer a conversation about at most one image."""
    state, said = state_of(request), conversation_of(body.messages)
    asked = SkillRequest(Skill.QUERY, question=said.question, reasoning=bool(body.reasoning))
    tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    model, whole = await prepared(
        state,
        asked,
        model=body.model,
        adapter=body.adapter,
        image_url=said.image_url,
        image_field=said.image_field,
        settings=SettingsBody(temperature=body.temperature, top_p=body.top_p, max_tokens=tokens),
    )
    head = _Head(f"chatcmpl-{ULID()}", int(time.time()), body.model)
    if body.stream:
        first, others = await streamed(request, state, model, whole)
        return EventStream(_lines(first, others, head))
    return _completion(await answered(request, state, model, whole), head)


class _Head:
    """What every message of one completion carries."""

    def __init__(self, id: str, created: int, model: str) -> None:
        self._id, self._created, self._model = id, created, model

    def json(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def _completion(result: InferenceResult, head: _Head) -> Json:
    assert isinstance(result.output, QueryOutput)
    message: Json = {"role": "assistant", "content": result.output.answer}
    if result.output.reasoning is not None:
        message["reasoning_content"] = result.output.reasoning.text
    usage = result.usage
    return {
        **head.json("chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(result)}],
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
        "moontune": policy_json(result),
    }


async def _lines(
    first: InferenceEvent, others: AsyncGenerator[InferenceEvent, None], head: _Head
) -> AsyncGenerator[str, None]:
    """Deltas, one with the finish reason, `[DONE]`."""

    def delta(content: Json, finish: str | None = None) -> str:
        choice: Json = {"index": 0, "delta": content, "finish_reason": finish}
        return line({**head.json("chat.completion.chunk"), "choices": [choice]})

    async with aclosing(others):
        yield delta({"role": "assistant", "content": ""})
        event: InferenceEvent | None = first
        while event is not None:
            if isinstance(event, TextDelta):
                yield delta({"reasoning_content" if event.reasoning else "content": event.text})
            elif isinstance(event, InferenceResult):
                yield delta({}, _finish(event))
                break
            try:
                event = await anext(others, None)
            except MoontuneError as error:
                yield error_line(error)
                return
        yield line("[DONE]")


def _finish(result: InferenceResult) -> str:
    return "length" if result.finish_reason is not FinishReason.STOP else "stop"
