"""POST /v1/tuning/train_step: one optimiser step, applied once however often its body is sent after a lost answer."""

import asyncio
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from moontune.auth.context import current_principal
from moontune.errors import Cancelled, InvalidField
from moontune.telemetry.names import TrainKey
from moontune.values.model_ref import PolicyVersion
from moontune.values.training import LossKind, SamplerCorrection, TrainSettings, TrainStep, TrainStepResult
from services.gateway.connection import Departure, WatchedResponse
from services.gateway.convert import Json
from services.gateway.deliveries import body_digest
from services.gateway.groups import GroupReader
from services.gateway.schemas import TrainStepBody
from services.gateway.state import GatewayState, state_of

router = APIRouter(prefix="/v1/tuning")

_OUR_SETTINGS = (
    "clip_low", "clip_high", "kl_weight", "entropy_weight", "normalise_std", "max_grad_norm", "weight_decay",
    "beta1", "beta2", "mask_band", "max_staleness_steps", "sft_weight", "passes",
)  # fmt: skip


@router.post("/train_step", response_model=None)
async def train_step(request: Request, body: TrainStepBody) -> Response:
    """Apply one step over RL and SFT groups."""
    state, principal = state_of(request), current_principal()
    step = await _read(state, body, principal.organisation)
    digest = body_digest(principal.organisation + principal.key_id, body.finetune_id, await request.body())
    lock = state.lock(digest)
    async with lock:
        delivered_before = await asyncio.to_thread(state.counters.delivered, principal.organisation, digest)
    step = replace(step, request_id=f"{digest}:{delivered_before}")
    task = state.train_steps.start_or_join(step.request_id, lambda: state.upstream.train_step(step))
    departure = Departure(request.receive)
    gone = asyncio.ensure_future(departure.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("the caller left before the step was done; it goes on, and the same body gets its answer")
        result = task.result()
    except BaseException:
        departure.stop()
        raise
    finally:
        gone.cancel()

    async def written(delivered: bool) -> None:
        if delivered:
            count = delivered_before + 1
            await asyncio.to_thread(state.counters.raise_to, principal.organisation, digest, count)

    return WatchedResponse(_result_json(result), departure, written, last_byte=lock)


async def _read(state: GatewayState, body: TrainStepBody, organisation: str) -> TrainStep:
    """The step without its request id. Images are decoded from base64 in a thread."""
    finetune = await state.upstream.get_finetune(body.finetune_id)
    unknown = PolicyVersion(finetune.base, finetune.base_digest, finetune.id)
    reader = GroupReader(state.signer, organisation, unknown, state.settings.image_bytes)

    def read() -> TrainStep:
        groups = tuple(reader.read(group, f"groups[{index}]") for index, group in enumerate(body.groups))
        return TrainStep(finetune.id, "", groups, _settings(body), body.expected_step)

    return await asyncio.to_thread(read)


def _settings(body: TrainStepBody) -> TrainSettings:
    given = {name: value for name in _OUR_SETTINGS if (value := getattr(body, name)) is not None}
    settings = replace(TrainSettings(learning_rate=body.lr), **given)
    if body.loss is not None:
        if body.loss not in tuple(LossKind):
            raise InvalidField.of("loss", body.loss, ", ".join(LossKind))
        settings = replace(settings, loss=LossKind(body.loss))
    if body.correction is not None:
        if body.correction not in tuple(SamplerCorrection):
            raise InvalidField.of("correction", body.correction, ", ".join(SamplerCorrection))
        settings = replace(settings, correction=SamplerCorrection(body.correction))
    if not 0.0 <= body.lr <= 1.0:
        raise InvalidField.of("lr", body.lr, "0 to 1")
    settings.validate("settings")
    return settings


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
