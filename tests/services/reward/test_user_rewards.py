"""Rewards that users bring, over a real channel: registered, listed, scored, tried, refused."""

import asyncio
import hashlib

import pytest
from pydantic import SecretStr

from moontune.auth.keys import KeyStore
from moontune.clients.credentials import Credentials
from moontune.clients.reward import RewardClient
from moontune.errors import InvalidField, RequestIdReused, RewardNotFound, SandboxMissing
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import StartupError
from moontune.telemetry import names
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.principal import Scope
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus, RewardComponent, RewardSample, RewardSpec
from moontune.values.reward_definition import (
    CodeLanguage,
    ContainerReward,
    JudgeReward,
    RemoteReward,
    RewardDefinition,
    UserCode,
)
from moontune.values.reward_report import SampleGroup
from moontune.values.sandbox import SandboxProfile
from moontune.values.skill import Skill
from moontune.wire.reward_definition import reward_definition_to_json
from services.reward.config import RewardSettings
from services.reward.sandbox import seccomp
from services.reward.servicer import build

PYTHON = """
def score(sample):
    right = sample["output"]["answer"] in sample["ground_truth"]["answers"]
    return {"reward": 1.0 if right else 0.0, "components": {"length": len(sample["output"]["answer"])}, "reason": "ok"}
"""
JAVASCRIPT = "const reward = (out, gt) => gt.answers.includes(out.answer) ? 1 : 0.25"


@pytest.fixture
async def service(tmp_path):
    settings = RewardSettings(port=0, database=f"sqlite:///{tmp_path / 'rewards.db'}", code_cpu_s=0.25, code_wall_s=60)

    async def start(chassis):
        await build(chassis, settings)

    async with opened([ServiceApp("reward", settings, start)]) as [chassis]:
        yield chassis


@pytest.fixture
async def client(service):
    async with RewardClient(f"127.0.0.1:{service.port}") as client:
        if not (await client.sandbox_status()).user_code_allowed:
            missing = (await client.sandbox_status()).layers
            pytest.skip(f"the pod profile is not to be had here: {missing}")
        yield client


def code(source=PYTHON, language=CodeLanguage.PYTHON, name="mine", **more):
    return RewardDefinition(name, (Skill.QUERY,), UserCode(language, source), **more)


def answers(*texts):
    request = SkillRequest(Skill.QUERY, question="Which colour?")
    return [RewardSample(request, QueryOutput(text), GroundTruth(answers=("red",))) for text in texts]


def spec(*names):
    return RewardSpec(tuple(RewardComponent(name) for name in names))


async def test_code_is_registered_listed_and_scored_beside_a_built_in(client):
    definition = code(description="is it right")
    info, version = await client.register(definition, request_id="1")
    assert info.name == "mine" and info.description == "is it right"
    digest = hashlib.sha256(reward_definition_to_json(definition).encode()).hexdigest()
    assert version == f"sha256:{digest}"
    assert (await client.list_rewards()).items[-1].name == "mine"
    right, wrong = await client.score(spec("mine", "token_f1"), answers("red", "red hot"))
    assert right.reward == 1.0 and right.detail == "ok"
    assert dict(wrong.components) == pytest.approx({"mine": 0.0, "mine/length": 7.0, "token_f1": 2 / 3})
    assert wrong.reward == pytest.approx(1 / 3)


async def test_registering_is_idempotent_and_a_new_definition_is_a_new_version(client):
    first = await client.register(code(), request_id="1")
    assert await client.register(code(), request_id="1") == first
    assert await client.register(code(), request_id="2") == first
    with pytest.raises(RequestIdReused):
        await client.register(code(JAVASCRIPT, CodeLanguage.JAVASCRIPT), request_id="1")
    second = await client.register(code(JAVASCRIPT, CodeLanguage.JAVASCRIPT), request_id="3")
    assert second[1] != first[1]
    assert [result.reward for result in await client.score(spec("mine"), answers("blue"))] == [0.25]
    pinned = f"mine@{first[1].removeprefix('sha256:')[:12]}"
    assert [result.reward for result in await client.score(spec(pinned), answers("blue"))] == [0.0]
    assert sum(info.name == "mine" for info in (await client.list_rewards()).items) == 1
    await client.register(code(), request_id="4")  # going back is a registration too
    assert [result.reward for result in await client.score(spec("mine"), answers("blue"))] == [0.0]


async def test_what_is_registered_outlives_the_service(tmp_path):
    settings = RewardSettings(port=0, database=f"sqlite:///{tmp_path / 'rewards.db'}", sandbox=SandboxProfile.TRUSTED)

    async def start(chassis):
        await build(chassis, settings)

    for turn in range(2):
        async with (
            opened([ServiceApp("reward", settings, start)]) as [chassis],
            RewardClient(f"127.0.0.1:{chassis.port}") as client,
        ):
            if turn == 0:
                await client.register(code())
            (result,) = await client.score(spec("mine"), answers("red"))
            assert result.reward == 1.0


async def test_a_failed_grade_is_one_samples_alone_and_counted(service, client):
    source = """
def score(sample):
    answer = sample["output"]["answer"]
    return {"raise": lambda: 1 / 0, "loop": lambda: [None for _ in iter(int, 1)], "nan": lambda: float("nan"),
            "text": lambda: "1.0", "true": lambda: True, "huge": lambda: 10**400, "range": lambda: 3}.get(
                answer, lambda: 0.5)()
"""
    await client.register(code(source))
    given = ["fine", "raise", "nan", "text", "true", "huge", "range", "loop", "fine"]
    results = await client.score(spec("mine"), answers(*given))
    said = [result.detail.removeprefix("mine: ").partition(":")[0] for result in results]
    assert said == ["", "RAISED", *["BAD_RESULT"] * 5, "CPU_LIMIT", ""]
    assert [result.reward for result in results] == [0.5, *[None] * 7, 0.5]
    assert all(result.status is ParseStatus.FAILED for result in results[1:-1])
    assert "line 4: ZeroDivisionError" in results[1].detail
    # The first batch of every reward is graded twice; what the second look says is not counted.
    assert service.metrics.value(names.USER_FAILURES, source="code", failure="BAD_RESULT") == 5
    assert service.metrics.value(names.USER_FAILURES, source="code", failure="CPU_LIMIT") == 1


async def test_a_reward_that_depends_on_order_is_told(service, client):
    source = "seen = []\ndef score(sample):\n    seen.append(1)\n    return 1 / len(seen)"
    groups = [SampleGroup(sample.request, (sample.output,), sample.ground_truth) for sample in answers("a", "b")]
    report = await client.validate(code(source), groups)
    assert any(example.result.detail.startswith("ORDER: ") for example in report.examples)
    assert service.metrics.value(names.DISAGREEMENTS) >= 2


async def test_a_definition_is_tried_without_being_registered(client):
    request, outputs = SkillRequest(Skill.QUERY, question="?"), (QueryOutput("red"), QueryOutput("no"))
    groups = [SampleGroup(request, outputs, GroundTruth(answers=("red",)))]
    report = await client.validate(code(), groups)
    assert (report.mean, report.failed_rate) == (0.5, 0.0)
    with pytest.raises(RewardNotFound):
        await client.score(spec("mine"), answers("red"))


async def test_what_cannot_be_used_is_refused_with_the_reason(client):
    refused = [
        (code("def score(sample) return 1"), "line 1: SyntaxError"),
        (code("x = 1"), "defines no function score"),
        (code("while (", CodeLanguage.JAVASCRIPT), "SyntaxError"),
        (code("const r = 1", CodeLanguage.JAVASCRIPT), "defines no function reward"),
        (code(name="exact_match"), "not the name of a built-in"),
        (code(name="No Spaces"), "1 to 64"),
        (RewardDefinition("mine", (Skill.QUERY,), RemoteReward("example.org:1")), "allowed: none"),
        (
            RewardDefinition("mine", (Skill.QUERY,), JudgeReward("m", "rate {answer}", "http://example.org")),
            "allowed: none",
        ),
        (RewardDefinition("mine", (Skill.QUERY,), JudgeReward("m", "rate it")), "{answer}"),
        (RewardDefinition("mine", (Skill.QUERY,), ContainerReward("python:3")), "by digest"),
    ]
    for definition, why in refused:
        with pytest.raises(InvalidField) as caught:
            await client.register(definition)
        assert why in caught.value.message
    with pytest.raises(SandboxMissing, match="DOCKER_HOST"):
        await client.register(RewardDefinition("mine", (Skill.QUERY,), ContainerReward(f"x@sha256:{'0' * 64}")))


async def test_organisations_do_not_see_each_others():
    settings = RewardSettings(port=0, sandbox=SandboxProfile.TRUSTED, internal_token=SecretStr("t" * 32))

    async def start(chassis):
        await build(chassis, settings)

    def client_of(chassis, organisation):
        credentials = Credentials(internal_token="t" * 32, organisation=organisation)
        return RewardClient(f"127.0.0.1:{chassis.port}", credentials)

    async with (
        opened([ServiceApp("reward", settings, start)]) as [chassis],
        client_of(chassis, "ours") as ours,
        client_of(chassis, "theirs") as theirs,
    ):
        await ours.register(code(), request_id="1")
        with pytest.raises(RewardNotFound):
            await theirs.score(spec("mine"), answers("red"))
        assert all(info.name != "mine" for info in (await theirs.list_rewards()).items)
        await theirs.register(code("def score(sample): return 0.5"), request_id="1")
        assert [result.reward for result in await ours.score(spec("mine"), answers("red"))] == [1.0]
        assert [result.reward for result in await theirs.score(spec("mine"), answers("red"))] == [0.5]


async def test_a_missing_layer_refuses_code_and_names_the_layer(service, client, monkeypatch):
    def missing():
        raise seccomp.SeccompMissing("libseccomp is not installed")

    settings = RewardSettings(port=0)

    async def start(chassis):
        await build(chassis, settings)

    seccomp.zygote_filter.cache_clear()
    monkeypatch.setattr(seccomp, "_library", missing)
    try:
        async with (
            opened([ServiceApp("reward", settings, start)]) as [chassis],
            RewardClient(f"127.0.0.1:{chassis.port}") as other,
        ):
            status = await other.sandbox_status()
            assert not status.user_code_allowed
            assert [layer.name for layer in status.layers if layer.detail == "libseccomp is not installed"] == [
                "seccomp"
            ]
            with pytest.raises(SandboxMissing, match=r"seccomp \(libseccomp is not installed\)"):
                await other.register(code())
            (result,) = await other.score(spec("exact_match"), answers("red"))
            assert result.reward == 1.0
    finally:
        seccomp.zygote_filter.cache_clear()


async def test_trusted_says_so_and_is_for_one_user_on_loopback(tmp_path):
    with pytest.raises(StartupError, match="unconfined"):
        RewardSettings.load(["--sandbox", "trusted", "--host", "0.0.0.0"], {})
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    settings = RewardSettings(port=0, sandbox=SandboxProfile.TRUSTED, keys_database=url)

    async def start(chassis):
        await build(chassis, settings)

    async with (
        opened([ServiceApp("reward", settings, start)]) as [chassis],
        RewardClient(f"127.0.0.1:{chassis.port}") as client,
    ):
        status = await client.sandbox_status()
        assert status.profile is SandboxProfile.TRUSTED and status.user_code_allowed
        assert not any(layer.active or layer.required for layer in status.layers)
    keys = KeyStore(url)
    keys.create("ours", "a key", frozenset(Scope))
    keys.close()
    with pytest.raises(StartupError, match="single user"):
        async with opened([ServiceApp("reward", settings, start)]):
            pass


async def test_many_callers_at_once_get_their_own_answers(client):
    await client.register(code())
    batches = await asyncio.gather(
        *(client.score(spec("mine"), answers("red", f"no {index}") * 50) for index in range(6))
    )
    assert all([result.reward for result in batch] == [1.0, 0.0] * 50 for batch in batches)
