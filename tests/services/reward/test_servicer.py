"""The reward service over a real channel."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from moontune.api.reward.v1 import reward_pb2, reward_service_pb2_grpc
from moontune.api.reward.v1 import reward_service_pb2 as pb
from moontune.serving.server import ServiceApp, opened
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import DetectOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardComponent, RewardSample, RewardSpec
from moontune.values.reward_report import SampleGroup
from moontune.values.skill import Skill
from moontune.wire.reward import reward_sample_to_proto, reward_spec_to_proto
from moontune.wire.reward_report import reward_report_from_proto, sample_group_to_proto
from services.reward.config import RewardSettings
from services.reward.servicer import RewardServicer, build
from services.reward.user_rewards import UserRewards

BOX = Box(0.0, 0.0, 0.5, 0.5)
REQUEST = SkillRequest(Skill.DETECT, Image("0" * 64), object="thing")


def detect(*predicted, truth=(BOX,)):
    return reward_sample_to_proto(RewardSample(REQUEST, DetectOutput(predicted), GroundTruth(boxes=truth)))


def spec(*names):
    return reward_spec_to_proto(RewardSpec(tuple(RewardComponent(name) for name in names)))


@pytest.fixture
async def stub():
    settings = RewardSettings(port=0)

    async def start(chassis):
        await build(chassis, settings)

    async with (
        opened([ServiceApp("reward", settings, start)]) as [chassis],
        grpc.aio.insecure_channel(f"127.0.0.1:{chassis.port}") as channel,
    ):
        yield reward_service_pb2_grpc.RewardServiceStub(channel)


async def test_score_by_default_and_by_composite(stub):
    answer = await stub.Score(pb.ScoreRequest(samples=[detect(BOX), detect(), detect(BOX, BOX, truth=())]))
    assert [result.reward for result in answer.results] == [1.0, 0.0, pytest.approx(0.3)]
    answer = await stub.Score(pb.ScoreRequest(reward=spec("matched_iou", "hard_f_beta"), samples=[detect(BOX, BOX)]))
    (result,) = answer.results
    assert dict(result.components) == pytest.approx({"matched_iou": 0.5, "hard_f_beta": 2 / 3})
    assert result.reward == pytest.approx((0.5 + 2 / 3) / 2)
    assert result.status == reward_pb2.PARSE_STATUS_OK


async def test_errors_name_the_field(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Score(pb.ScoreRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Score(pb.ScoreRequest(reward=spec("point_in_box"), samples=[detect(BOX)]))
    details = rpc_status.from_call(caught.value).details
    violations = error_details_pb2.BadRequest()
    assert any(detail.Unpack(violations) for detail in details)
    assert violations.field_violations[0].field == "samples[0].request.skill"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Score(pb.ScoreRequest(reward=spec("nothing"), samples=[detect(BOX)]))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_stream_goes_on_after_a_refused_batch(stub):
    async def batches():
        yield pb.ScoreStreamRequest(tag="a", samples=[detect(BOX)])
        yield pb.ScoreStreamRequest(tag="b", reward=spec("nothing"), samples=[detect(BOX)])
        yield pb.ScoreStreamRequest(tag="c", reward=spec("soft_f_beta"), samples=[detect()])

    answers = [answer async for answer in stub.ScoreStream(batches())]
    assert [(answer.tag, answer.WhichOneof("result")) for answer in answers] == [
        ("a", "results"),
        ("b", "error"),
        ("c", "results"),
    ]
    assert answers[1].error.reason == "REWARD_NOT_FOUND"
    assert answers[2].results.results[0].reward == 0.0


async def test_a_large_batch_leaves_the_event_loop_free():
    boxes = [Box(0.0, 0.01 * index, 0.5, 0.01 * index + 0.2) for index in range(40)]
    batch = pb.ScoreRequest(samples=[detect(*boxes, truth=boxes)] * 2000)
    user_rewards = await UserRewards.open(RewardSettings(port=0), ServiceMetrics())
    servicer = RewardServicer(user_rewards, ServiceMetrics(), asyncio.Event())
    turns, scoring = 0, asyncio.create_task(servicer.Score(batch, None))
    while not scoring.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len(scoring.result().results) == 2000
    # Scored on the loop itself, the batch would let it turn once or twice, however fast or slow the machine is.
    assert turns > 8, turns
    await user_rewards.close()


async def test_the_catalogue_in_pages(stub):
    whole = await stub.ListRewards(pb.ListRewardsRequest())
    names = [info.name for info in whole.rewards]
    assert {"matched_iou", "soft_f_beta", "exact_match"} <= set(names)
    assert whole.next_page_token == ""
    first = await stub.ListRewards(pb.ListRewardsRequest(page_size=3))
    rest = await stub.ListRewards(pb.ListRewardsRequest(page_size=100, page_token=first.next_page_token))
    assert [info.name for info in [*first.rewards, *rest.rewards]] == names
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ListRewards(pb.ListRewardsRequest(page_token="junk"))


async def test_a_dry_run(stub):
    request = SkillRequest(Skill.QUERY, question="Which colour?")
    outputs = (QueryOutput("red"), QueryOutput("blue"))
    groups = [SampleGroup(request, outputs, GroundTruth(answers=("red",)))]
    message = pb.ValidateRewardRequest(reward=spec("exact_match"), groups=[sample_group_to_proto(g) for g in groups])
    report = reward_report_from_proto((await stub.ValidateReward(message)).report)
    assert (report.mean, report.std, report.dead_group_share, report.parse_rate) == (0.5, 0.5, 0.0, 1.0)
    assert len(report.examples) == 2
