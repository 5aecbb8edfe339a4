"""RewardService on the chassis: convert, call, convert.

Reading, grading and writing of a batch (4096 samples of up to hundreds of objects) run in a thread: the event loop
stays free.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from moontune.api.reward.v1 import reward_pb2, reward_service_pb2_grpc
from moontune.api.reward.v1 import reward_service_pb2 as pb
from moontune.auth.context import current_principal
from moontune.auth.keys import KeyStore
from moontune.errors import Draining, InvalidField, MoontuneError
from moontune.serving.chassis import Chassis
from moontune.serving.settings import StartupError
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.reward_definition import RewardDefinition
from moontune.values.sandbox import SandboxProfile
from moontune.wire.item_error import item_error_to_proto
from moontune.wire.reward import reward_info_to_proto, reward_result_to_proto
from moontune.wire.reward_report import reward_report_to_proto
from moontune.wire.sandbox import sandbox_status_to_proto
from services.reward.catalogue import CATALOGUE
from services.reward.config import RewardSettings
from services.reward.convert import candidate_from, groups_from, page_from, registration_from, samples_from, spec_from
from services.reward.dry_run import dry_run
from services.reward.grader import grade_all
from services.reward.user_rewards import UserRewards

MAX_TAG = 128


async def build(chassis: Chassis, settings: RewardSettings) -> None:
    """Register the service on the chassis."""
    await asyncio.to_thread(_check_trusted, settings)
    user_rewards = await UserRewards.open(settings, chassis.metrics)
    chassis.on_stop(user_rewards.close)
    servicer = RewardServicer(user_rewards, chassis.metrics, chassis.draining)
    chassis.add(reward_service_pb2_grpc.add_RewardServiceServicer_to_server, servicer)


def _check_trusted(settings: RewardSettings) -> None:
    """The trusted profile is for a single user: raise StartupError where there are keys, so maybe several."""
    if settings.sandbox is not SandboxProfile.TRUSTED or not settings.keys_database:
        return
    keys = KeyStore(settings.keys_database)
    try:
        if keys.any():
            raise StartupError("sandbox trusted runs user code unconfined, for a single user: there are API keys here")
    finally:
        keys.close()


class RewardServicer(reward_service_pb2_grpc.RewardServiceServicer):
    """Built-in rewards, those that users bring, and composites of them."""

    def __init__(self, user_rewards: UserRewards, metrics: ServiceMetrics, draining: asyncio.Event) -> None:
        self._user_rewards = user_rewards
        self._metrics = metrics
        self._draining = draining

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        """Score a batch."""
        return pb.ScoreResponse(results=await self._grade(request))

    async def ScoreStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ScoreStreamRequest], context: Any
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        """Score batch after batch: one is taken when the answer to the one before was written."""
        async for request in request_iterator:
            if self._draining.is_set():
                raise Draining("the reward service is stopping; send the unanswered batches again")
            if not 1 <= len(request.tag) <= MAX_TAG:
                raise InvalidField.of("tag", request.tag, f"1 to {MAX_TAG} characters")
            try:
                results = await self._grade(request)
            except MoontuneError as error:
                yield pb.ScoreStreamResponse(tag=request.tag, error=item_error_to_proto(error))
                continue
            yield pb.ScoreStreamResponse(tag=request.tag, results=pb.RewardResultList(results=results))

    async def ListRewards(self, request: pb.ListRewardsRequest, context: Any) -> pb.ListRewardsResponse:  # noqa: N802
        """List the built-ins by name, then what operators and users brought."""
        built_in = [CATALOGUE[name].info() for name in sorted(CATALOGUE)]
        every = [*built_in, *await self._user_rewards.listed(current_principal().organisation)]
        page, token = page_from(request, [info.name for info in every])
        return pb.ListRewardsResponse(
            rewards=[reward_info_to_proto(info) for info in every[page]], next_page_token=token
        )

    async def ValidateReward(  # noqa: N802
        self, request: pb.ValidateRewardRequest, context: Any
    ) -> pb.ValidateRewardResponse:
        """Dry run on the caller's samples."""
        candidate, groups = await asyncio.to_thread(lambda: (candidate_from(request), groups_from(request.groups)))
        organisation = current_principal().organisation
        if isinstance(candidate, RewardDefinition):
            lookup = await self._user_rewards.trial(organisation, candidate)
            candidate = RewardSpec((RewardComponent(candidate.name),))
        else:
            lookup = await self._user_rewards.lookup(organisation, candidate, again_every=1)
        report = await dry_run(candidate, groups, lookup)
        return pb.ValidateRewardResponse(report=reward_report_to_proto(report))

    async def RegisterReward(  # noqa: N802
        self, request: pb.RegisterRewardRequest, context: Any
    ) -> pb.RegisterRewardResponse:
        """Keep a reward of the organisation's own."""
        request_id, definition = registration_from(request)
        kept = await self._user_rewards.register(current_principal().organisation, request_id, definition)
        return pb.RegisterRewardResponse(reward=reward_info_to_proto(kept.info), version=kept.version)

    async def GetSandboxStatus(  # noqa: N802
        self, request: pb.GetSandboxStatusRequest, context: Any
    ) -> pb.GetSandboxStatusResponse:
        """Whether user code runs here, and what holds it."""
        return pb.GetSandboxStatusResponse(status=sandbox_status_to_proto(await self._user_rewards.sandbox_status()))

    async def _grade(self, request: pb.ScoreRequest | pb.ScoreStreamRequest) -> list[reward_pb2.RewardResult]:
        spec, samples = await asyncio.to_thread(lambda: (spec_from(request), samples_from(request.samples)))
        lookup = await self._user_rewards.lookup(current_principal().organisation, spec)
        started = time.perf_counter()
        results = await grade_all(spec, samples, lookup)
        seconds = (time.perf_counter() - started) / len(samples)
        self._metrics.histogram(names.SCORE_SECONDS, reward=_label(spec)).observe(seconds)
        for status, count in Counter(result.status for result in results).items():
            self._metrics.counter(names.SCORED, status=str(status)).inc(count)
        return await asyncio.to_thread(lambda: [reward_result_to_proto(result) for result in results])


def _label(spec: RewardSpec | None) -> str:
    if spec is None:
        return "default"
    name = spec.components[0].name
    if name not in CATALOGUE:
        return "user"
    return name if len(spec.components) == 1 else "composite"
