"""POST /v1/tuning/train_step: one optimiser step, applied once however often its body is sent after a lost answer."""

import asyncio
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from moontune.auth.context import current_principal
from moontune.errors import Cancelled
from moontune.telemetry.names import TrainKey
from moontune.values.model_ref import PolicyVersion
from moontune.values.training import TrainStep, TrainStepResult
from services.gateway.connection import Departure, WatchedResponse, first_of
from services.gateway.convert import Json
from services.gateway.deliveries import body_digest
from services.gateway.groups import GroupReader
from services.gateway.openapi import body_of
from services.gateway.schemas import TrainStepBody
from services.gateway.spooled_body import SpooledBody
from services.gateway.state import GatewayState, state_of
from services.gateway.step_body import StepGroups, read_fields
from services.gateway.train_settings import train_settings_of

router = APIRouter(prefix="/v1/tuning", tags=["tuning"])

_BASE64 = 4 / 3
_BESIDE_IMAGE_BYTES = 64 * 1024
_BESIDE_IMAGES_BYTES = 32 * 1024 * 1024


@router.post("/train_step", response_model=None, openapi_extra=body_of(TrainStepBody))
async def train_step(request: Request) -> Response:
    """Apply one step over RL and SFT groups."""
    state, principal = state_of(request), current_principal()
    image_chars = int(state.settings.image_bytes * _BASE64)
    body = await SpooledBody.receive(request.stream(), state.settings.spool_dir, image_chars + _BESIDE_IMAGE_BYTES)
    try:
        step = await _read(state, body, principal.organisation, image_chars + _BESIDE_IMAGES_BYTES)
    except BaseException:
        body.close()
        raise
    digest = body_digest(principal.organisation + principal.key_id, step.finetune_id, body.sha256)
    lock = state.lock(digest)
    async with lock:
        delivered_before = await asyncio.to_thread(state.counters.delivered, principal.organisation, digest)
    step = replace(step, request_id=f"{digest}:{delivered_before}")

    async def apply() -> TrainStepResult:
        return await state.upstream.train_step(step)

    task = state.train_steps.start_or_join(step.request_id, apply)
    task.add_done_callback(lambda _: body.close())  # a task that was joined never reads this body
    departure = Departure(request.receive)
    if not await first_of(task, departure):
        raise Cancelled("the caller left before the step was done; it goes on, and the same body gets its answer")

    async def written(delivered: bool) -> None:
        if delivered:
            count = delivered_before + 1
            await asyncio.to_thread(state.counters.raise_to, principal.organisation, digest, count)

    return WatchedResponse(_result_json(task.result()), departure, written, last_byte=lock)


async def _read(state: GatewayState, body: SpooledBody, organisation: str, group_bytes: int) -> TrainStep:
    """The step without its request id, every group checked."""

    def reader(unknown: PolicyVersion) -> GroupReader:
        return GroupReader(state.signer, organisation, unknown, state.settings.image_bytes)

    fields, count = await asyncio.to_thread(read_fields, body, reader(PolicyVersion("", "")), group_bytes)
    settings = train_settings_of(fields)
    finetune = await state.upstream.get_finetune(fields.finetune_id)
    unknown = PolicyVersion(finetune.base, finetune.base_digest, finetune.id)
    groups = StepGroups(body, reader(unknown), count, group_bytes)
    return TrainStep(finetune.id, "", groups, settings, fields.expected_step)


def _result_json(result: TrainStepResult) -> Json:
    """TrainStepOutput; our own figures stand under `metrics`. router_kl is null: our bases have no router."""
    metrics = result.metrics
    return {
        "step": result.step,
        "applied": result.applied,
        "kl": metrics.get(TrainKey.KL),
        "router_kl": None,
        "grad_norm": metrics.get(TrainKey.GRAD_NORM),
        "sft_loss": metrics.get(TrainKey.SFT_LOSS),
        "reward_mean": metrics.get(TrainKey.REWARD_MEAN),
        "reward_std": metrics.get(TrainKey.REWARD_STD),
        "reason": result.reason,
        "adapter_digest": result.adapter_digest,
        "replayed": result.replayed,
        "metrics": dict(metrics),
    }
