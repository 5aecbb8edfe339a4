"""Judges that are models of our own inference service: a small one here, the real one in the slow test."""

import contextlib
from dataclasses import replace

import pytest

from moontune.api.inference.v1 import inference_service_pb2_grpc
from moontune.auth.context import current_principal, set_principal
from moontune.clients.credentials import Credentials
from moontune.clients.reward import RewardClient
from moontune.errors import ImageUnknown
from moontune.serving.server import ServiceApp, opened
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.inference import InferenceResult
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import QueryOutput
from moontune.values.principal import LOCAL_PRINCIPAL
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus, RewardComponent, RewardSample, RewardSpec
from moontune.values.reward_definition import JudgeReward, RewardDefinition
from moontune.values.reward_report import SampleGroup
from moontune.values.rollout import FinishReason
from moontune.values.skill import Skill
from moontune.wire.answer import query_answer_to_proto
from services.reward.config import RewardSettings
from services.reward.servicer import build
from tests.services.model_stack import model_stack, picture

SPEC = RewardSpec((RewardComponent("opinion"),))
TOKEN = "t" * 32


class Inference(inference_service_pb2_grpc.InferenceServiceServicer):
    """Says the same to every question, and asks for the bytes of images that it has not seen."""

    def __init__(self):
        self.says, self.asked, self.seen = '{"score": 0.75, "reason": "close"}', [], set()

    async def Query(self, request, context):  # noqa: N802
        for image in request.input.images:
            if not image.data and image.sha256 not in self.seen:
                raise ImageUnknown("send it")
            self.seen.add(image.sha256)
        self.asked.append((current_principal().organisation, request.input.model, request.task.question))
        policy = PolicyVersion("judge-1", "sha256:" + "0" * 64)
        return query_answer_to_proto(InferenceResult(QueryOutput(self.says), policy, FinishReason.STOP))


@contextlib.asynccontextmanager
async def judged(inference_port, token=None):
    """A client of a reward service whose inference service is at that port."""
    address = f"127.0.0.1:{inference_port}"
    settings = RewardSettings(port=0, inference_address=address, internal_token=token)

    async def start(chassis):
        await build(chassis, settings)

    credentials = Credentials(internal_token=token)
    async with (
        opened([ServiceApp("reward", settings, start)]) as [chassis],
        RewardClient(f"127.0.0.1:{chassis.port}", credentials) as client,
    ):
        yield client


@pytest.fixture
async def inference():
    settings, servicer = RewardSettings(port=0, internal_token=TOKEN), Inference()

    async def start(chassis):
        chassis.add(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)

    async with opened([ServiceApp("inference", settings, start)]) as [chassis]:
        servicer.port = chassis.port
        yield servicer


def definition(with_image=False, rubric="Rate {answer}"):
    return RewardDefinition(
        "opinion", (Skill.QUERY,), JudgeReward("judge-1", rubric, timeout_s=20.0, with_image=with_image)
    )


def sample(text="red", image=None):
    request = SkillRequest(Skill.QUERY, image, question="Which colour?")
    return RewardSample(request, QueryOutput(text), GroundTruth(answers=("red",)))


async def test_the_service_s_own_model_judges_in_the_caller_s_name(inference):
    async with judged(inference.port, TOKEN) as client:
        set_principal(replace(LOCAL_PRINCIPAL, organisation="acme"))
        await client.register(definition())
        (result,) = await client.score(SPEC, [sample()])
    assert (result.reward, result.detail) == (0.75, "close")
    ((organisation, model, question),) = inference.asked
    assert (organisation, model) == ("acme", "judge-1")
    assert question.startswith('Rate {"answer": "red"}')


async def test_a_question_that_is_too_long_fails_alone(inference):
    """As often as would open the breaker for everyone: a policy that rambles must not silence the judge."""
    async with judged(inference.port, TOKEN) as client:
        await client.register(definition())
        results = await client.score(SPEC, [*(sample(f"{n} " + "a" * 9000) for n in range(8)), sample()])
        (after,) = await client.score(SPEC, [sample("blue")])
    assert [result.status for result in results] == [ParseStatus.FAILED] * 8 + [ParseStatus.OK]
    assert "at most 8192 characters" in results[0].detail
    assert after.reward == 0.75


async def test_a_dry_run_sends_the_pixels_that_a_judge_asks_for(inference):
    group = SampleGroup(sample(image=picture()).request, (QueryOutput("red"), QueryOutput("blue")), GroundTruth())
    async with judged(inference.port, TOKEN) as client:
        report = await client.validate(definition(with_image=True), [group])
        assert (report.samples, report.mean) == (2, 0.75)
        with pytest.raises(ImageUnknown):
            unseen = SkillRequest(Skill.QUERY, Image("0" * 64), question="Which colour?")
            await client.validate(
                definition(with_image=True), [SampleGroup(unseen, (QueryOutput("red"),), GroundTruth())]
            )


@pytest.mark.slow
async def test_a_real_model_is_asked_and_what_it_says_is_read_strictly(tmp_path):
    """The base has random weights: it says no score, which is no score and not a crash."""
    async with model_stack(tmp_path) as stack, judged(stack.chassis["inference"].port) as client:
        source = JudgeReward("tiny-fake", "Rate {answer}", timeout_s=60.0, with_image=True)
        await client.register(RewardDefinition("opinion", (Skill.QUERY,), source))
        (result,) = await client.score(SPEC, [sample(image=picture())])
    assert result.reward is None
    assert "BAD_RESULT: the judge said" in result.detail
