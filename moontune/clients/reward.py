"""Client of the reward service: scores, the catalogue, dry runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from moontune.api.reward.v1 import reward_service_pb2 as pb
from moontune.api.reward.v1.reward_service_pb2_grpc import RewardServiceStub
from moontune.clients.request_ids import new_request_id
from moontune.clients.service_client import ServiceClient
from moontune.errors import ImageUnknown
from moontune.values.page import Page
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardInfo, RewardResult, RewardSample, RewardSpec
from moontune.values.reward_definition import RewardDefinition
from moontune.values.reward_report import RewardReport, SampleGroup
from moontune.values.sandbox import SandboxStatus
from moontune.wire.checks import each
from moontune.wire.reward import (
    reward_info_from_proto,
    reward_result_from_proto,
    reward_sample_to_proto,
    reward_spec_to_proto,
)
from moontune.wire.reward_definition import reward_definition_to_proto
from moontune.wire.reward_report import reward_report_from_proto, sample_group_to_proto
from moontune.wire.sandbox import sandbox_status_from_proto

if TYPE_CHECKING:  # these classes exist in the stubs only
    from moontune.api.reward.v1.reward_service_pb2_grpc import RewardServiceAsyncStub


class RewardClient(ServiceClient):
    """Async client of RewardService. Images go by digest; a judge that lacks one asks for its bytes."""

    default_deadline_s = 120.0

    @property
    def _stub(self) -> "RewardServiceAsyncStub":
        return RewardServiceStub(self._connection.channel)

    async def score(
        self, reward: RewardSpec, samples: Sequence[RewardSample], *, deadline_s: float | None = None
    ) -> tuple[RewardResult, ...]:
        """Score samples; one result each, in their order."""
        named = [replace(sample, request=_named(sample.request)) for sample in samples]
        try:
            return await self._score(reward, named, deadline_s)
        except ImageUnknown:  # a judge looks at pixels
            if not any(sample.request.image and sample.request.image.data for sample in samples):
                raise
            return await self._score(reward, samples, deadline_s)

    async def _score(
        self, reward: RewardSpec, samples: Sequence[RewardSample], deadline_s: float | None
    ) -> tuple[RewardResult, ...]:
        messages = [reward_sample_to_proto(sample) for sample in samples]
        request = pb.ScoreRequest(reward=reward_spec_to_proto(reward), samples=messages)
        response = await self._connection.unary(self._stub.Score, request, deadline_s)
        return each("results", response.results, reward_result_from_proto)

    async def list_rewards(
        self, *, page_size: int = 0, page_token: str = "", deadline_s: float | None = None
    ) -> Page[RewardInfo]:
        """A page of the catalogue: the built-ins, then the organisation's own."""
        request = pb.ListRewardsRequest(page_size=page_size, page_token=page_token)
        response = await self._connection.unary(self._stub.ListRewards, request, deadline_s)
        return Page(each("rewards", response.rewards, reward_info_from_proto), response.next_page_token)

    async def validate(
        self,
        candidate: RewardSpec | RewardDefinition,
        groups: Sequence[SampleGroup],
        *,
        deadline_s: float | None = None,
    ) -> RewardReport:
        """Dry run of a reward on samples: parse rate, mean, std, dead groups, warnings."""
        named = [replace(group, request=_named(group.request)) for group in groups]
        try:
            return await self._validate(candidate, named, deadline_s)
        except ImageUnknown:  # a judge looks at pixels
            if not any(group.request.image and group.request.image.data for group in groups):
                raise
            return await self._validate(candidate, groups, deadline_s)

    async def _validate(
        self, candidate: RewardSpec | RewardDefinition, groups: Sequence[SampleGroup], deadline_s: float | None
    ) -> RewardReport:
        messages = [sample_group_to_proto(group) for group in groups]
        if isinstance(candidate, RewardSpec):
            request = pb.ValidateRewardRequest(reward=reward_spec_to_proto(candidate), groups=messages)
        else:
            request = pb.ValidateRewardRequest(definition=reward_definition_to_proto(candidate), groups=messages)
        response = await self._connection.unary(self._stub.ValidateReward, request, deadline_s)
        return reward_report_from_proto(response.report)

    async def register(
        self, definition: RewardDefinition, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> tuple[RewardInfo, str]:
        """Put a reward of the organisation's own in the catalogue. Returns its entry and version."""
        request = pb.RegisterRewardRequest(
            request_id=request_id or new_request_id(), definition=reward_definition_to_proto(definition)
        )
        response = await self._connection.unary(self._stub.RegisterReward, request, deadline_s)
        return reward_info_from_proto(response.reward), response.version

    async def sandbox_status(self, *, deadline_s: float | None = None) -> SandboxStatus:
        """Whether user code may run, and which layers hold it."""
        response = await self._connection.unary(self._stub.GetSandboxStatus, pb.GetSandboxStatusRequest(), deadline_s)
        return sandbox_status_from_proto(response.status)


def _named(request: SkillRequest) -> SkillRequest:
    return request if request.image is None else replace(request, image=request.image.named())
