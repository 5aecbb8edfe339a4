"""POST /v1/tuning/rollouts.

Generation is not cancelled when its caller leaves: the client gives up after 60 s and sends the same body again, and
gets what the first call made.
"""

import hashlib
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from moontune.auth.context import current_principal
from moontune.errors import Cancelled
from moontune.values.image import Image
from moontune.values.rollout import RolloutGroup
from moontune.values.sampling import rollout_defaults
from moontune.values.skill import Skill
from services.gateway.connection import Departure, WatchedResponse, first_of
from services.gateway.convert import Json, ground_truth_of, request_of
from services.gateway.deliveries import body_digest
from services.gateway.images import data_url, is_data_url
from services.gateway.json_route import JsonRoute
from services.gateway.rollout_objects import rollout_json
from services.gateway.schemas import RolloutsBody, SkillRequestBody
from services.gateway.state import state_of

router = APIRouter(prefix="/v1/tuning", tags=["tuning"], route_class=JsonRoute)


@router.post("/rollouts", response_model=None)
async def rollouts(request: Request, body: RolloutsBody) -> Response:
    """Generate attempts with the finetune's current policy; with ground truth they come scored."""
    state, principal = state_of(request), current_principal()
    skill = Skill(body.request.skill)
    url = body.request.image_url
    image = await state.images.read(url, "request.image_url") if url else None
    asked = request_of(body.request, rollout_defaults(skill), "request", image)
    truth = ground_truth_of(body.ground_truth, skill) if body.ground_truth is not None else None

    async def generate() -> RolloutGroup:
        finetune = await state.upstream.get_finetune(body.finetune_id)
        return await state.upstream.generate(finetune, asked, body.num_rollouts, truth)

    sent = hashlib.sha256(await request.body()).digest()
    digest = body_digest(principal.organisation + principal.key_id, body.finetune_id, sent)
    task = state.rollouts.take_or_start(digest, generate)
    departure = Departure(request.receive)
    if not await first_of(task, departure):
        state.rollouts.hold(digest, task)
        raise Cancelled("the caller left before the rollouts were made; the same request within 5 minutes gets them")
    group = task.result()

    async def written(delivered: bool) -> None:
        if not delivered:
            state.rollouts.hold(digest, task)

    objects: list[Json] = [
        rollout_json(rollout, asked, state.signer, principal.organisation) for rollout in group.rollouts
    ]
    content: Json = {
        "request": _echo(body.request, image),
        "rollouts": objects,
        "rewards": _rewards(group.rewards) if truth is not None else None,
    }
    return WatchedResponse(content, departure, written, pause_s=0.0)


def _echo(asked: SkillRequestBody, image: Image | None) -> Json:
    """The request as it came, its image inside: callers send it back with a train step, which fetches nothing."""
    echo = asked.model_dump(exclude_unset=True)
    if image is not None and asked.image_url and not is_data_url(asked.image_url):
        echo["image_url"] = data_url(image)
    return echo


def _rewards(rewards: Sequence[float | None]) -> list[float | None]:
    return list(rewards)
