"""Remote rewards against real servers: the examples in every language that is here, and servers that misbehave."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from moontune.api.reward.v1 import reward_pb2, reward_plugin_service_pb2_grpc
from moontune.api.reward.v1 import reward_plugin_service_pb2 as pb
from moontune.clients.retry import RetryPolicy
from moontune.clients.reward import RewardClient
from moontune.clients.reward_plugin import RewardPluginClient
from moontune.serving.server import ServiceApp, opened
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardComponent, RewardSample, RewardSpec
from moontune.values.reward_definition import RemoteReward, RewardDefinition
from moontune.values.skill import Skill
from services.reward.config import RewardSettings
from services.reward.sandbox.verdict import Failure
from services.reward.servicer import build
from services.reward.usercode.breaker import FAILURES_TO_OPEN, Breaker, CircuitOpen
from services.reward.usercode.remote import RemoteService

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "examples" / "rewards"


def answers(*texts):
    request = SkillRequest(Skill.QUERY, question="Which colour?")
    return [RewardSample(request, QueryOutput(text), GroundTruth(answers=("red",))) for text in texts]


def started(command, folder=ROOT):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    return process, port


def node_plugin():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (EXAMPLES / "node" / "node_modules").is_dir():
        pytest.skip("the packages of examples/rewards/node are not installed: npm install there")
    return started(["node", "plugin.js"], EXAMPLES / "node")


def go_plugin():
    binary = EXAMPLES / "go" / "plugin"
    if not binary.exists():
        pytest.skip("examples/rewards/go is not built: examples/rewards/go/build.sh does")
    return started([str(binary)])


def python_plugin():
    return started([sys.executable, "-m", "examples.rewards.plugin"])


@pytest.mark.parametrize("start", [python_plugin, node_plugin, go_plugin])
async def test_an_example_is_registered_and_scores(start):
    process, port = start()
    settings = RewardSettings(port=0, allowed_endpoints=["127.0.0.1"])

    async def up(chassis):
        await build(chassis, settings)

    try:
        async with (
            opened([ServiceApp("reward", settings, up)]) as [chassis],
            RewardClient(f"127.0.0.1:{chassis.port}") as client,
        ):
            definition = RewardDefinition("brief", (Skill.QUERY,), RemoteReward(f"127.0.0.1:{port}", timeout_s=30.0))
            info, _ = await client.register(definition)
            assert (info.name, info.maximum) == ("brief", 1.0)
            assert [parameter.name for parameter in info.parameters] == ["words"]
            spec = RewardSpec((RewardComponent("brief", parameters={"words": 2.0}),))
            results = await client.score(spec, answers("red", "dark red", "it is dark red"))
            assert [result.reward for result in results] == [1.0, 1.0, 0.5]
            assert results[2].components["brief/said"] == 4.0
            by_default = await client.score(RewardSpec((RewardComponent("brief"),)), answers("it is very dark red x"))
            assert [result.reward for result in by_default] == [0.5]
    finally:
        process.terminate()
        process.communicate()


class Misbehaving(reward_plugin_service_pb2_grpc.RewardPluginServiceServicer):
    """Answers as its `way` says."""

    def __init__(self):
        self.way, self.calls, self.now, self.most = "well", 0, 0, 0

    async def ScoreSamples(self, request, context):  # noqa: N802
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.01)
            if self.way == "hang":
                await asyncio.sleep(60)
            if self.way == "fail":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            reward = {"nan": float("nan"), "huge": 1e12}.get(self.way, 0.5)
            results = [
                reward_pb2.RewardResult(reward=reward, status=reward_pb2.PARSE_STATUS_OK) for _ in request.samples
            ]
            return pb.ScoreSamplesResponse(results=results[: -1 if self.way == "few" else None])
        finally:
            self.now -= 1


@pytest.fixture
async def plugin():
    server, servicer = grpc.aio.server(), Misbehaving()
    reward_plugin_service_pb2_grpc.add_RewardPluginServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer
    await server.stop(0)


def remote(plugin, attempts=1, **settings):
    reward = RemoteReward(f"127.0.0.1:{plugin.port}", **settings)
    retry = RetryPolicy(attempts, first_s=0.01)
    return RemoteService(reward, RewardPluginClient(reward.endpoint, deadline_s=reward.timeout_s, retry=retry))


@pytest.mark.parametrize(
    ("way", "failure"),
    [
        ("nan", "BAD_RESULT"),
        ("huge", "BAD_RESULT"),
        ("few", "BAD_RESULT"),
        ("fail", "UNREACHABLE"),
        ("hang", "TIME_LIMIT"),
    ],
)
async def test_what_a_plugin_does_wrong_has_a_name(plugin, way, failure):
    service = remote(plugin, timeout_s=0.5 if way == "hang" else 30.0)
    plugin.way = way
    verdicts = await service.score(answers("a", "b"), {})
    assert [verdict.failure for verdict in verdicts] == [Failure[failure]] * 2, verdicts
    plugin.way = "well"
    assert [verdict.reward for verdict in await service.score(answers("a"), {})] == [0.5]
    await service.close()


async def test_a_failing_call_is_tried_again(plugin):
    service = remote(plugin, attempts=4, timeout_s=30.0)
    plugin.way = "fail"
    await service.score(answers("a"), {})
    assert plugin.calls == 4
    await service.close()


async def test_calls_are_capped_and_batches_keep_their_order(plugin):
    service = remote(plugin, timeout_s=60.0, max_concurrency=2)
    assert len(await service.score(answers(*["a"] * 640), {})) == 640
    assert plugin.calls == 10 and plugin.most <= 2
    await service.close()


async def test_after_failures_in_a_row_nothing_is_sent(plugin):
    service = remote(plugin, timeout_s=30.0)
    plugin.way = "fail"
    for _ in range(FAILURES_TO_OPEN + 3):
        (verdict,) = await service.score(answers("a"), {})
    assert plugin.calls == FAILURES_TO_OPEN
    assert verdict.failure is Failure.UNREACHABLE and "in a row" in verdict.reason
    await service.close()


def test_an_open_circuit_lets_one_try_after_a_while():
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(FAILURES_TO_OPEN):
        breaker.enter()
        breaker.failed()
    with pytest.raises(CircuitOpen):
        breaker.enter()
    now[0] = 31.0
    breaker.enter()
    with pytest.raises(CircuitOpen):  # a second call waits for what the first one finds
        breaker.enter()
    breaker.failed()
    with pytest.raises(CircuitOpen):
        breaker.enter()
    now[0] = 62.0
    breaker.enter()
    breaker.succeeded()
    breaker.enter()
    breaker.enter()
