"""The rollout service over a real channel, with its real worker, trainer and reward service."""

import asyncio
import io
import os
import re
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image as PillowImage
from prometheus_client import generate_latest

from moontune.clients.retry import RetryPolicy
from moontune.clients.rollout import RolloutClient
from moontune.errors import (
    DeadlineExceeded,
    FinetuneNotFound,
    ImageInvalid,
    ImageTooLarge,
    ImageUnknown,
    InvalidField,
    ModelNotFound,
    MoontuneError,
    StepNotFound,
    WorkerDied,
)
from moontune.telemetry import names
from moontune.values.finetune import CheckpointRef
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.rollout import Head, RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tests.services.model_stack import ModelStack, detect, model_stack, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")

MISSING = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ModelStack]:
    async with model_stack(tmp_path_factory.mktemp("rollout")) as started:
        yield started


def order(
    model: str = "tiny-fake", request: SkillRequest | None = None, count: int = 4, **more: object
) -> RolloutOrder:
    return RolloutOrder(model, request or detect(), count, 11, **more)  # pyright: ignore[reportArgumentType]


def choices(group: RolloutGroup) -> list[list[tuple[Head, int]]]:
    return [[(each.head, each.choice) for each in rollout.decisions] for rollout in group.rollouts]


def logprobs(group: RolloutGroup) -> list[float]:
    return [each.logprob for rollout in group.rollouts for each in rollout.decisions]


def assert_same(got: RolloutGroup, wanted: RolloutGroup) -> None:
    assert choices(got) == choices(wanted)
    assert logprobs(got) == pytest.approx(logprobs(wanted), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(
    "request_",
    [
        detect(),
        SkillRequest(Skill.POINT, picture(1), object="cup", spatial_refs=(Point(0.5, 0.5),)),
        SkillRequest(Skill.QUERY, picture(2), question="what?", settings=SamplingSettings(1.2, 0.8, 16)),
        SkillRequest(
            Skill.QUERY, picture(2), question="why?", reasoning=True, settings=SamplingSettings(max_tokens=16)
        ),
        SkillRequest(Skill.QUERY, None, question="no image", settings=SamplingSettings(max_tokens=8)),
    ],
    ids=["detect", "point", "query", "reasoning", "text"],
)
async def test_a_group_for_every_skill(stack: ModelStack, request_: SkillRequest) -> None:
    group = await stack.rollout.generate(order(request=request_, count=5))
    assert len(group.rollouts) == 5
    assert group.request == request_
    assert group.rewards == ()
    facts = stack.chassis["rollout"].worker.facts  # pyright: ignore[reportOptionalMemberAccess]
    for rollout in group.rollouts:
        assert rollout.decisions
        assert (rollout.policy.base, rollout.policy.base_digest) == ("tiny-fake", facts["digest"])
        assert rollout.policy.adapter_digest == ""
    assert_same(await stack.rollout.generate(order(request=request_, count=5)), group)


async def test_a_policy_is_fetched_from_the_trainer(stack: ModelStack) -> None:
    made = await stack.finetune("fetched", steps=2)
    groups = [await stack.rollout.generate(order(f"moondream3-preview/{made.id}@{step}")) for step in (0, 1, 2)]
    base = await stack.rollout.generate(order())
    assert_same(groups[0], base)  # step 0 equals the base
    assert len({str(choices(group)) for group in groups}) == 3
    digests = [{rollout.policy.adapter_digest for rollout in group.rollouts} for group in groups]
    assert digests[2] == {made.adapter_digest}
    assert len(set.union(*digests)) == 3
    assert {(r.policy.finetune_id, r.policy.step) for r in groups[1].rollouts} == {(made.id, 1)}
    status = await stack.rollout.engine_status()
    assert made.adapter_digest in {adapter.policy.adapter_digest for adapter in status.adapters}
    assert (status.base, status.running, status.waiting) == ("tiny-fake", 0, 0)


async def test_after_a_restore_the_old_names_mean_what_they_meant(stack: ModelStack) -> None:
    made = await stack.finetune("restored", steps=1)
    checkpoint = await stack.trainer.save_checkpoint(made.id)

    async def digest_of(step: int) -> str:
        group = await stack.rollout.generate(order(f"tiny-fake/{made.id}@{step}", count=1))
        return group.rollouts[0].policy.adapter_digest

    old = await stack.finetune_on(made, 2)
    before = [await digest_of(step) for step in (1, 2, 3)]
    assert before[2] == old.adapter_digest
    await stack.trainer.restore_checkpoint(CheckpointRef(made.id, checkpoint.step))
    new = await stack.finetune_on(made, 2, learning_rate=0.01)
    assert new.step == 5
    assert [await digest_of(step) for step in (1, 2, 3)] == before
    assert await digest_of(5) == new.adapter_digest not in before


async def test_an_older_policy_will_do_where_the_order_allows_it_and_it_is_here(stack: ModelStack) -> None:
    made = await stack.finetune("stale", steps=3)

    async def step_used(step: int, staleness: int) -> int | None:
        asked = replace(order(f"tiny-fake/{made.id}@{step}", count=1), max_staleness_steps=staleness)
        return (await stack.rollout.generate(asked)).rollouts[0].policy.step

    assert await step_used(2, 2) == 2  # nothing older is here
    assert await step_used(3, 0) == 3
    made = await stack.finetune_on(made, 2)
    assert await step_used(5, 1) == 5  # 4 is not here, 3 is too old
    made = await stack.finetune_on(made, 1)
    assert await step_used(6, 1) == 5
    async with asyncio.timeout(30):
        while await step_used(6, 1) != 6:  # it is fetched meanwhile
            pass


async def test_ground_truth_is_scored(stack: ModelStack) -> None:
    truth = GroundTruth(boxes=(Box(0.1, 0.1, 0.9, 0.9),))
    group = await stack.rollout.generate(order(ground_truth=truth, count=6))
    assert len(group.rewards) == 6
    assert all(reward is not None and 0.0 <= reward <= 1.0 for reward in group.rewards)
    empty = await stack.rollout.generate(order(ground_truth=GroundTruth(boxes=()), count=6))
    for rollout, reward in zip(empty.rollouts, empty.rewards, strict=True):
        assert reward is not None
        assert (reward == 1.0) == (not any(each.head is Head.X for each in rollout.decisions))


async def test_evaluation_is_greedy(stack: ModelStack) -> None:
    group = await stack.rollout.generate(order(request=detect(temperature=0.0), count=2))
    assert group.rollouts[0].decisions == group.rollouts[1].decisions
    assert {each.logprob for each in group.rollouts[0].decisions} == {0.0}


async def test_many_orders_at_once_do_not_change_answers(stack: ModelStack) -> None:
    orders = [order(request=detect(seed), count=1 + seed % 3) for seed in range(12)]
    together = await asyncio.gather(*(stack.rollout.generate(each) for each in orders))
    for got, each in zip(together, orders, strict=True):
        assert_same(got, await stack.rollout.generate(each))


async def test_a_stream_answers_every_order_and_names_the_bad_one(stack: ModelStack) -> None:
    orders = {str(seed): order(request=detect(seed), count=2) for seed in range(20)}
    orders["bad"] = order(model=f"tiny-fake/{MISSING}@3")
    answers = {tag: answer async for tag, answer in stack.rollout.stream(orders.items())}
    assert answers.keys() == orders.keys()
    assert isinstance(answers.pop("bad"), FinetuneNotFound)
    assert all(isinstance(answer, RolloutGroup) for answer in answers.values())


async def test_two_thousand_orders_of_one_stream_are_answered_in_bounded_memory(stack: ModelStack) -> None:
    """Sent as fast as they are taken: what is under way is bounded by `stream_orders`, whatever is outstanding."""
    worker = stack.chassis["rollout"].worker
    assert worker is not None
    assert worker.pid is not None
    greedy = SamplingSettings(0.0, max_tokens=1)
    small = SkillRequest(Skill.QUERY, None, question="x", settings=greedy)
    wanted = choices(await stack.rollout.generate(order(request=small, count=1)))
    before = [resident_bytes(pid) for pid in (os.getpid(), worker.pid)]
    answered: set[str] = set()
    async for tag, group in stack.rollout.stream([(str(i), order(request=small, count=1)) for i in range(2000)]):
        assert isinstance(group, RolloutGroup)
        assert choices(group) == wanted
        answered.add(tag)
    assert len(answered) == 2000
    after = [resident_bytes(pid) for pid in (os.getpid(), worker.pid)]
    assert all(late - early < 100 * 1024 * 1024 for early, late in zip(before, after, strict=True))
    status = await stack.rollout.engine_status()
    assert (status.running, status.waiting) == (0, 0)


def resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def test_an_image_is_sent_once(stack: ModelStack) -> None:
    image = picture(77)
    named = order(request=replace(detect(), image=image.named()))
    with pytest.raises(ImageUnknown, match="send its bytes once"):
        await stack.rollout.generate(named)
    await stack.rollout.generate(order(request=replace(detect(), image=image)))
    assert (await stack.rollout.generate(named)).rollouts


def huge() -> Image:
    file = io.BytesIO()
    PillowImage.new("1", (10_000, 10_000)).save(file, "PNG")
    return Image.of(file.getvalue())


BAD = {
    "no rollouts": (order(count=0), InvalidField, r"order\.rollout_count is 0; allowed: 1 to 64"),
    "65 rollouts": (order(count=65), InvalidField, r"order\.rollout_count is 65; allowed: 1 to 64"),
    "caption": (
        order(request=SkillRequest(Skill.CAPTION, picture())),
        InvalidField,
        r"order\.request.* is 'caption'; allowed: query, point or detect",
    ),
    "negative temperature": (
        order(request=replace(detect(), settings=SamplingSettings(-1.0))),
        InvalidField,
        r"order\.request\.settings\.temperature is -1.0; allowed: 0 \(greedy\) or 0.01 to 4",
    ),
    "temperature not a number": (
        order(request=replace(detect(), settings=SamplingSettings(float("nan")))),
        InvalidField,
        r"order\.request\.settings\.temperature is nan",
    ),
    "point outside": (
        order(request=SkillRequest(Skill.POINT, picture(), object="x", spatial_refs=(Point(1.5, 0.5),))),
        InvalidField,
        r"order\.request\.spatial_refs\[0\].*x is 1.5; allowed: a finite number from 0 to 1",
    ),
    "box outside": (
        order(request=SkillRequest(Skill.POINT, picture(), object="x", spatial_refs=(Box(0.1, 0.1, 0.2, 1.2),))),
        InvalidField,
        r"order\.request\.spatial_refs\[0\].*y_max is 1.2",
    ),
    "not an image": (
        order(request=replace(detect(), image=Image.of(b"GIF89a, honestly"))),
        ImageInvalid,
        r"order\.request\.images\[0\] is '16 bytes .*allowed: a jpeg, png or webp file",
    ),
    "100 megapixels": (
        order(request=replace(detect(), image=huge())),
        ImageTooLarge,
        r"order\.request\.images\[0\] is '10000 x 10000 pixels'; allowed: at most 40000000 pixels",
    ),
    "no model": (order(model=""), InvalidField, r"order\.model"),
    "another base": (order(model="moondream9"), ModelNotFound, "'moondream9'; this process serves 'tiny-fake'"),
    "not an id": (order(model="base/nonsense@1"), InvalidField, r"order\.model is 'base/nonsense@1'"),
    "unknown finetune": (order(model=f"tiny-fake/{MISSING}@1"), FinetuneNotFound, MISSING),
    "question too long": (
        order(request=SkillRequest(Skill.QUERY, picture(), question="word " * 100)),
        InvalidField,
        r"order\.request\.question is .*tokens with the template'; allowed: at most \d+ tokens",
    ),
    "no room for an object": (
        order(request=replace(detect(), settings=SamplingSettings(max_tokens=2))),
        InvalidField,
        r"order\.request\.settings\.max_tokens is 2; allowed: at least 3 for detect",
    ),
    "truth of another skill": (
        order(ground_truth=GroundTruth(answers=("x",))),
        InvalidField,
        r"order\.ground_truth is \['answers'\]; allowed: exactly one of \['boxes'\] for detect",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_says_what_was_given_and_what_is_allowed(stack: ModelStack, name: str) -> None:
    bad, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        await stack.rollout.generate(bad)
    assert type(caught.value) is error
    if isinstance(caught.value, InvalidField):
        assert caught.value.violations[0].field.startswith("order.")


async def test_a_step_that_never_was(stack: ModelStack) -> None:
    made = await stack.finetune("short")
    with pytest.raises(StepNotFound):
        await stack.rollout.generate(order(f"tiny-fake/{made.id}@9"))


async def test_a_deadline_ends_a_generation_and_the_next_one_runs(stack: ModelStack) -> None:
    address = f"127.0.0.1:{stack.chassis['rollout'].port}"
    long = SkillRequest(Skill.QUERY, picture(), question="x" * 20, settings=SamplingSettings(4.0, max_tokens=2000))
    async with RolloutClient(address, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(DeadlineExceeded):
            await client.generate(order(request=long, count=64), deadline_s=0.05)
    async with asyncio.timeout(5):
        assert (await stack.rollout.generate(order())).rollouts
        assert (await stack.rollout.engine_status()).running == 0


async def test_what_was_generated_is_counted(stack: ModelStack) -> None:
    def counted() -> float:
        metrics = stack.chassis["rollout"].metrics
        labels = ({"skill": "point", "finish_reason": reason} for reason in ("stop", "length"))
        return sum(metrics.value(names.ROLLOUTS, **each) or 0.0 for each in labels)

    before = counted()
    await stack.rollout.generate(order(request=SkillRequest(Skill.POINT, picture(), object="x"), count=7))
    assert counted() == before + 7


PROMISED = (
    names.FIRST_TOKEN_SECONDS,
    names.TOKEN_SECONDS,
    names.GROUP_SECONDS,
    names.QUEUE_SECONDS,
    names.RUNNING,
    names.WAITING,
    names.ENGINE_STEPS,
    names.ENGINE_ROW_STEPS,
    names.ENGINE_ADAPTER_STEPS,
    names.ENGINE_CANCELLED,
    names.CACHE_HITS,
    names.CACHE_MISSES,
    names.CACHE_EVICTIONS,
    names.CACHE_BYTES,
    names.ADAPTER_RESIDENT,
    names.ROLLOUTS,
)


async def test_every_promised_metric_is_on_the_page(stack: ModelStack) -> None:
    """After work with an adapter: times, batch, adapters a batch, caches by tier, who is resident, how it ended."""
    made = await stack.finetune("metered", steps=1)
    await stack.rollout.generate(order(f"tiny-fake/{made.id}@1"))
    metrics = stack.chassis["rollout"].metrics

    def page() -> str:
        return generate_latest(metrics.registry).decode()

    deadline = asyncio.get_running_loop().time() + 60
    while not all(re.search(rf"^{each.name}(_count)?({{| )", page(), re.MULTILINE) for each in PROMISED):
        missing = [each.name for each in PROMISED if each.name not in page()]
        assert asyncio.get_running_loop().time() < deadline, missing
        await asyncio.sleep(0.1)
    for tier in ("adapter_device", "adapter_host", "prefix", "image"):
        assert f'cache="{tier}"' in page()


async def test_errors_are_ours(stack: ModelStack) -> None:
    with pytest.raises(MoontuneError) as caught:
        await stack.rollout.generate(order(model=f"tiny-fake/{MISSING}@1"))
    assert caught.value.reason == "FINETUNE_NOT_FOUND"


@pytest.mark.slow
async def test_a_killed_worker_fails_its_calls_and_comes_back(stack: ModelStack) -> None:
    """Runs last: it takes the worker away from everybody."""
    worker = stack.chassis["rollout"].worker
    assert worker is not None
    assert worker.pid is not None
    wanted = await stack.rollout.generate(order())
    settings = SamplingSettings(4.0, max_tokens=2000)
    long = SkillRequest(Skill.QUERY, picture(), question="x" * 20, settings=settings)
    address = f"127.0.0.1:{stack.chassis['rollout'].port}"
    async with RolloutClient(address, retry=RetryPolicy(attempts=1)) as client:
        running = asyncio.create_task(client.generate(order(request=long, count=64)))
        while (await client.engine_status()).running == 0:  # noqa: ASYNC110  # the engine raises no event
            await asyncio.sleep(0.005)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await running
    while not worker.ready:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert_same(await stack.rollout.generate(order()), wanted)


@pytest.mark.slow
async def test_a_stream_outlives_the_worker(stack: ModelStack) -> None:
    """Orders under way when the worker is killed are answered with a retryable error, each; the stream goes on."""
    worker = stack.chassis["rollout"].worker
    assert worker is not None
    assert worker.pid is not None
    wanted = await stack.rollout.generate(order())
    settings = SamplingSettings(4.0, max_tokens=2000)
    long = SkillRequest(Skill.QUERY, picture(), question="x" * 20, settings=settings)
    back = asyncio.Event()

    async def orders() -> AsyncGenerator[tuple[str, RolloutOrder]]:
        for index in range(8):
            yield f"long {index}", order(request=long, count=16)
        await back.wait()
        yield "after", order()

    async def kill() -> None:
        while (await stack.rollout.engine_status()).running == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        while worker.ready:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        while not worker.ready:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        back.set()

    killer = asyncio.create_task(kill())
    answers = {tag: answer async for tag, answer in stack.rollout.stream(orders())}
    await killer
    after = answers.pop("after")
    assert len(answers) == 8
    assert all(isinstance(answer, WorkerDied) for answer in answers.values())
    assert isinstance(after, RolloutGroup)
    assert_same(after, wanted)
