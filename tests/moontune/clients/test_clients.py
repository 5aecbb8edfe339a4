import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import pytest

from moontune.auth.context import set_principal
from moontune.clients.credentials import Credentials
from moontune.clients.retry import NO_RETRY, RetryPolicy
from moontune.clients.reward import RewardClient
from moontune.clients.rollout import RolloutClient
from moontune.clients.trainer import TrainerClient
from moontune.errors import (
    CheckpointCorrupt,
    DeadlineExceeded,
    FinetuneNotFound,
    ImageUnknown,
    InvalidState,
    NotImplementedYet,
    Unauthenticated,
    Unavailable,
    WorkerDied,
)
from moontune.telemetry.deadline import set_deadline
from moontune.values.finetune import StepApplied
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import PointOutput
from moontune.values.principal import Principal
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardComponent, RewardSample, RewardSpec
from moontune.values.rollout import Decision, FinishReason, Head, Rollout, RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.values.skill import Skill
from moontune.values.training import RlGroup, TrainStep
from tests.fakes.chassis import free_port
from tests.fakes.services import POLICY, finetune

FT = "01J00000000000000000000000"
QUICK = RetryPolicy(first_s=0.01, most_s=0.02)


def request(data: bytes = b"an image") -> SkillRequest:
    return SkillRequest(Skill.POINT, Image.of(data), object="dog")


def step(groups: int = 3) -> TrainStep:
    stop = (Decision(Head.GO, 0, -0.5),)
    rollout = Rollout(Skill.POINT, PointOutput(()), stop, FinishReason.STOP, POLICY, 1, 1.0)
    return TrainStep(FT, "", (RlGroup(request(), (rollout, rollout), (0.0, 1.0)),) * groups)


async def test_a_step_is_streamed_retried_with_one_request_id_and_applied_once(fakes):
    fakes.trainer.failures.append(WorkerDied("dead", retry_after_s=0.0))
    async with TrainerClient(fakes.address, retry=QUICK) as client:
        result = await client.train_step(step())
    assert (result.step, result.replayed, result.metrics) == (1, True, {"reward_mean": 0.5})
    assert len(fakes.trainer.applied) == 1
    assert len(fakes.trainer.request_ids) == 2
    assert len(set(fakes.trainer.request_ids)) == 1
    assert fakes.trainer.group_images == [["data", "sha256", "sha256"]] * 2


async def test_a_mutation_keeps_the_callers_request_id_or_makes_one(fakes):
    fakes.trainer.failures.append(Unavailable("busy"))
    async with TrainerClient(fakes.address, retry=QUICK) as client:
        await client.delete_finetune(FT, request_id="mine")
        await client.delete_finetune(FT)
    mine, again, made = fakes.trainer.request_ids
    assert mine == again == "mine"
    assert len(made) == 26


async def test_errors_that_do_not_get_better_are_not_retried(fakes):
    async with TrainerClient(fakes.address, retry=QUICK) as client:
        with pytest.raises(FinetuneNotFound, match="no finetune 'missing'"):
            await client.get_finetune("missing")
        assert fakes.trainer.calls == 1
        fakes.trainer.failures.append(InvalidState("no"))
        with pytest.raises(InvalidState):
            await client.get_finetune(FT)
        assert fakes.trainer.calls == 2
        assert await client.get_finetune(FT) == finetune()


async def test_retries_end_and_the_last_error_is_raised(fakes):
    fakes.trainer.failures.extend([Unavailable(f"busy {n}") for n in range(9)])
    async with TrainerClient(fakes.address, retry=replace(QUICK, attempts=3)) as client:
        with pytest.raises(Unavailable, match="busy 2"):
            await client.get_finetune(FT)
    assert fakes.trainer.calls == 3


async def test_the_services_retry_time_is_honoured_within_the_deadline(fakes):
    fakes.trainer.failures.append(Unavailable("busy", retry_after_s=0.3))
    async with TrainerClient(fakes.address, retry=QUICK) as client:
        started = time.monotonic()
        await client.get_finetune(FT)
        assert time.monotonic() - started >= 0.3
        fakes.trainer.failures.append(Unavailable("busy", retry_after_s=30.0))
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await client.get_finetune(FT, deadline_s=20.0)
        assert time.monotonic() - started < 10.0  # it did not wait in vain for the deadline


async def test_a_deadline_of_the_task_bounds_the_call(fakes):
    async with TrainerClient(fakes.address) as client:

        async def answering() -> None:
            set_deadline(time.monotonic() + 0.01)
            await asyncio.sleep(0.02)
            await client.get_finetune(FT)

        with pytest.raises(DeadlineExceeded):
            await asyncio.create_task(answering())
        await client.get_finetune(FT)


async def test_a_service_that_is_not_there_is_unavailable():
    async with TrainerClient(f"127.0.0.1:{free_port()}", retry=replace(QUICK, attempts=2)) as client:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.get_finetune(FT, deadline_s=5)


async def test_an_rpc_without_implementation_says_so(fakes):
    async with TrainerClient(fakes.address) as client:
        with pytest.raises(NotImplementedYet):
            await client.list_finetunes()


async def test_the_internal_token_carries_the_organisation_of_the_task(fakes):
    async with TrainerClient(fakes.address, Credentials(internal_token="shared")) as client:

        async def on_behalf(organisation: str) -> None:
            set_principal(Principal(organisation, frozenset()))
            await client.get_finetune(FT)

        await asyncio.gather(on_behalf("acme"), on_behalf("zeta"))
        await client.get_finetune(FT)
    assert sorted(fakes.trainer.organisations) == ["acme", "local", "zeta"]
    async with TrainerClient(fakes.address, Credentials(internal_token="wrong")) as client:
        with pytest.raises(Unauthenticated):
            await client.get_finetune(FT)


async def test_image_bytes_go_once_then_the_digest_and_again_when_it_is_unknown(fakes):
    order = RolloutOrder("fake", request(), rollout_count=2)
    async with RolloutClient(fakes.address) as client:
        for _ in range(2):
            group = await client.generate(order)
            assert group.request.image == order.request.image
            assert len(group.rollouts) == 2
        fakes.rollouts.images.clear()
        await client.generate(order)
        await client.generate(order)
    assert fakes.rollouts.sources == ["bytes", "digest", "digest", "bytes", "digest"]


async def test_a_service_that_keeps_no_images_is_soon_sent_bytes_only(fakes):
    fakes.rollouts.remember = False
    async with RolloutClient(fakes.address) as client:
        for _ in range(6):
            await client.generate(RolloutOrder("fake", request()))
    assert fakes.rollouts.sources == ["bytes"] + ["digest", "bytes"] * 3 + ["bytes"] * 2


async def test_a_digest_alone_that_is_unknown_is_the_callers_error(fakes):
    async with RolloutClient(fakes.address) as client:
        with pytest.raises(ImageUnknown):
            await client.generate(RolloutOrder("fake", replace(request(), image=Image.of(b"x").named())))


async def test_streamed_orders_answer_by_tag_and_one_failure_does_not_end_them(fakes):
    good = RolloutOrder("fake", request())
    bad = RolloutOrder("fake", replace(request(), image=Image.of(b"x").named()))
    async with RolloutClient(fakes.address) as client:
        answers = {tag: answer async for tag, answer in client.stream([("a", good), ("b", bad), ("c", good)])}
    assert type(answers["a"]) is type(answers["c"]) is RolloutGroup
    assert answers["a"].request.image.data == b"an image"
    assert type(answers["b"]) is ImageUnknown


async def test_an_order_that_cannot_be_made_raises_its_own_error(fakes):
    def orders():
        yield "a", RolloutOrder("fake", request())
        raise InvalidState("no more")

    async with RolloutClient(fakes.address) as client:
        with pytest.raises(InvalidState, match="no more"):
            async for _ in client.stream(orders()):
                pass


async def test_rewards_get_images_by_digest_only(fakes):
    sample = RewardSample(request(), PointOutput(()), GroundTruth(points=()))
    async with RewardClient(fakes.address) as client:
        results = await client.score(RewardSpec((RewardComponent("point_f1"),)), [sample, sample])
    assert [result.reward for result in results] == [0.5, 0.5]
    assert fakes.rewards.sources == ["sha256", "sha256"]


async def test_an_adapter_is_downloaded_and_checked(fakes, tmp_path):
    async with TrainerClient(fakes.address) as client:
        manifest = await client.download_adapter(FT, tmp_path / "a")
    assert manifest.policy.step == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == fakes.trainer.files


@pytest.mark.parametrize("fault", ["bytes", "digest"])
async def test_a_corrupt_adapter_leaves_nothing_behind(fakes, tmp_path, fault):
    fakes.trainer.corrupt = fault
    async with TrainerClient(fakes.address) as client:
        with pytest.raises(CheckpointCorrupt):
            await client.download_adapter(FT, tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


async def test_a_stream_is_retried_before_its_first_message_and_not_after(fakes):
    fakes.trainer.failures.append(Unavailable("busy"))
    async with TrainerClient(fakes.address, retry=QUICK) as client:
        events = [event async for event in client.watch_finetune(FT)]
        assert events[0] == finetune()
        assert [event.step for event in events[1:] if isinstance(event, StepApplied)] == [1, 2, 3]
        seen = []
        with pytest.raises(Unavailable, match="gone"):
            async for event in client.watch_finetune(FT):
                if not seen:
                    fakes.trainer.failures.append(Unavailable("gone"))
                seen.append(event)
        assert len(seen) == 4


async def test_leaving_a_stream_early_ends_it(fakes):
    fakes.trainer.steps = 100_000
    async with TrainerClient(fakes.address, retry=NO_RETRY) as client:
        async with aclosing(client.watch_finetune(FT)) as events:
            async for _ in events:
                break
        assert await client.get_finetune(FT) == finetune()


def test_the_wait_grows_is_jittered_and_never_shorter_than_asked():
    policy = RetryPolicy(first_s=1.0, most_s=4.0)
    for tries, middle in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 4.0)):
        waits = [policy.wait_s(tries, None) for _ in range(50)]
        assert min(waits) >= 0.8 * middle
        assert max(waits) <= 1.2 * middle
        assert max(waits) > min(waits)
    assert policy.wait_s(1, Unavailable("", retry_after_s=9.0)) == 9.0


def test_credentials_do_not_show_their_secrets():
    assert "hush" not in repr(Credentials(api_key="hush", internal_token="hush"))
