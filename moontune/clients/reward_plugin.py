"""Client of a RewardPluginService: a reward that a user runs, in any language."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from moontune.api.reward.v1 import reward_plugin_service_pb2 as pb
from moontune.api.reward.v1.reward_plugin_service_pb2_grpc import RewardPluginServiceStub
from moontune.clients.service_client import ServiceClient
from moontune.values.reward import Parameter, RewardInfo, RewardResult, RewardSample
from moontune.wire.checks import each
from moontune.wire.reward import (
    parameter_to_proto,
    reward_info_from_proto,
    reward_result_from_proto,
    reward_sample_to_proto,
)

if TYPE_CHECKING:  # these classes exist in the stubs only
    from moontune.api.reward.v1.reward_plugin_service_pb2_grpc import RewardPluginServiceAsyncStub


class RewardPluginClient(ServiceClient):
    """Async client of RewardPluginService. It never shows credentials of ours to a user's service."""

    default_deadline_s = 5.0

    @property
    def _stub(self) -> "RewardPluginServiceAsyncStub":
        return RewardPluginServiceStub(self._connection.channel)

    async def describe(self, *, deadline_s: float | None = None) -> RewardInfo:
        """Name, formula, skills, parameters and range."""
        response = await self._connection.unary(self._stub.DescribeReward, pb.DescribeRewardRequest(), deadline_s)
        return reward_info_from_proto(response.info)

    async def score(
        self,
        samples: Sequence[RewardSample],
        parameters: Mapping[str, Parameter],
        *,
        deadline_s: float | None = None,
    ) -> tuple[RewardResult, ...]:
        """Score samples; as many results as the plugin sent, each with finite numbers."""
        request = pb.ScoreSamplesRequest(
            parameters={name: parameter_to_proto(value) for name, value in parameters.items()},
            samples=[reward_sample_to_proto(sample) for sample in samples],
        )
        response = await self._connection.unary(self._stub.ScoreSamples, request, deadline_s)
        return each("results", response.results, reward_result_from_proto)
