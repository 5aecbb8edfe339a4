"""POST /v1/tuning/rollouts.

Generation is not cancelled when its caller leaves: the client gives up after 60 s and sends the same body again, and
gets what the first call made.
"""

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from moontune.auth.context import current_principal
from moontune.errors import Cancelled
from moontune.values.rollout import RolloutGroup
from moontune.values.sampling import rollout_defaults
from moontune.values.skill import Skill
from services.gateway.connection import Departure, WatchedResponse
from services.gateway.convert import Json, ground_truth_of, request_of
from services.gateway.deliveries import body_digest
from services.gateway.rollout_objects import rollout_json
from services.gateway.schemas import RolloutsBody
from services.gateway.state import state_of

router = APIRouter(prefix="/v1/tuning")


@router.post("/rollouts", response_model=None)
async def rollouts(request: Request, body: RolloutsBody) -> Response:
    """Generate attempts with the finetune's current policy; with ground truth they come scored."""
    state, principal = state_of(request), current_principal()
    skill = Skill(body.request.skill)
    asked = await asyncio.to_thread(
        request_of, body.request, rollout_defaults(skill), "request", state.settings.image_bytes
    )
    truth = ground_truth_of(body.ground_truth, skill) if body.ground_truth is not None else None

    async def generate() -> RolloutGroup:
        finetune = await state.upstream.get_finetune(body.finetune_id)
        return await state.upstream.generate(finetune, asked, body.num_rollouts, truth)

    digest = body_digest(principal.organisation + principal.key_id, body.finetune_id, await request.body())
    task = state.rollouts.take_or_start(digest, generate)
    departure = Departure(request.receive)
    if not await _first(task, departure):
        state.rollouts.hold(digest, task)
        raise Cancelled("the caller left before the rollouts were made; the same request within 5 minutes gets them")
    try:
        group = task.result()
    except BaseException:
        departure.stop()
        raise

    async def written(delivered: bool) -> None:
        if not delivered:
            state.rollouts.hold(digest, task)

    objects: list[Json] = [
        rollout_json(rollout, asked, state.signer, principal.organisation) for rollout in group.rollouts
    ]
    content: Json = {
        "request": body.request.model_dump(exclude_unset=True),
        "rollouts": objects,
        "rewards": _rewards(group.rewards) if truth is not None else None,
    }
    return WatchedResponse(content, departure, written)


def _rewards(rewards: Sequence[float | None]) -> list[float | None]:
    return list(rewards)


async def _first(task: "asyncio.Task[RolloutGroup]", departure: Departure) -> bool:
    """Wait for the task or for the caller to leave; whether the task was first."""
    gone = asyncio.ensure_future(departure.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    return task.done()
