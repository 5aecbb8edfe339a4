"""One inference request from a body to its answer: checked, asked for as long as the caller stays."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from fastapi import Request

from moontune.errors import InvalidField
from moontune.values.inference import InferenceEvent, InferenceResult
from moontune.values.request import SkillRequest
from moontune.values.sampling import inference_defaults
from moontune.values.skill import Skill
from services.gateway.connection import while_connected
from services.gateway.convert import Json, output_json, settings_of
from services.gateway.schemas import SettingsBody
from services.gateway.state import GatewayState


async def prepared(
    state: GatewayState,
    asked: SkillRequest,
    *,
    model: str | None,
    adapter: str | None,
    image_url: str | None,
    settings: SettingsBody | None,
    image_field: str = "image_url",
) -> tuple[str, SkillRequest]:
    """The model string for inference and the whole request, checked.

    Raises:
        InvalidField: a value that is not allowed; image_field is what the image is called then.
    """
    image = None
    if image_url:
        image = await state.images.read(image_url, image_field)
    elif asked.skill is not Skill.QUERY:
        raise InvalidField.of(image_field, None, f"a data URL; {asked.skill} needs an image")
    whole = replace(asked, image=image, settings=settings_of(settings, inference_defaults(asked.skill)))
    whole.validate("task")
    return await state.models.resolve(model, adapter), whole


async def answered(request: Request, state: GatewayState, model: str, asked: SkillRequest) -> InferenceResult:
    """The whole answer; cancelled upstream when the caller leaves."""
    return await while_connected(request, state.upstream.answer(model, asked))


async def streamed(
    request: Request, state: GatewayState, model: str, asked: SkillRequest
) -> tuple[InferenceEvent, AsyncGenerator[InferenceEvent, None]]:
    """The first piece of a streamed answer, and the others.

    The first is awaited here, so that an error before it is an ordinary answer with its status.
    """
    events = state.upstream.stream_answer(model, asked)
    return await while_connected(request, _next(events)), events


async def _next(events: AsyncGenerator[InferenceEvent, None]) -> InferenceEvent:
    return await anext(events)


def answer_json(result: InferenceResult, request_id: str) -> Json:
    """The body of a plain answer: Moondream's fields, and the exact weights under `moontune`."""
    usage = result.usage
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
        "moontune": policy_json(result),
    }


def policy_json(result: InferenceResult) -> Json:
    """Which weights answered."""
    policy = result.policy
    return {
        "base": policy.base,
        "base_digest": policy.base_digest,
        "finetune_id": policy.finetune_id,
        "step": policy.step,
        "adapter_digest": policy.adapter_digest,
    }
