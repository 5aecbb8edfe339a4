"""The inference service over a real channel: saved steps from the store alone, named by model string."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from moontune.clients.inference import InferenceClient
from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    ImageInvalid,
    ImageUnknown,
    InvalidField,
    ModelNotFound,
    Unavailable,
    WrongBase,
)
from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, opened
from moontune.values.adapter import AdapterState
from moontune.values.engine import EngineStatus
from moontune.values.finetune import Finetune
from moontune.values.geometry import Point
from moontune.values.image import Image
from moontune.values.inference import InferenceRequest, InferenceResult
from moontune.values.output import CaptionOutput, DetectOutput, PointOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout_order import RolloutOrder
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from services.inference.config import InferenceSettings
from services.inference.servicer import build
from tests.services.model_stack import ModelStack, detect, model_stack, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")

MISSING = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
GREEDY = SamplingSettings(0.0, max_tokens=30, max_objects=4)
SHORT = SamplingSettings(0.0, max_tokens=6)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ModelStack]:
    async with model_stack(tmp_path_factory.mktemp("inference")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def saved(stack: ModelStack) -> Finetune:
    """A finetune of three steps; the second and the third are saved."""
    made = await stack.finetune("saved", steps=2)
    await stack.trainer.save_checkpoint(made.id)
    await stack.finetune_on(made, 1)
    await stack.trainer.save_checkpoint(made.id)
    return await stack.trainer.get_finetune(made.id)


def ask(model: str, request: SkillRequest | None = None) -> InferenceRequest:
    return InferenceRequest(model, request or replace(detect(), settings=GREEDY), seed=3)


async def test_the_base_answers_every_skill(stack: ModelStack) -> None:
    image = picture()
    kinds = {
        DetectOutput: SkillRequest(Skill.DETECT, image, object="cup", settings=GREEDY),
        PointOutput: SkillRequest(Skill.POINT, image, object="cup", settings=GREEDY),
        QueryOutput: SkillRequest(Skill.QUERY, image, question="what?", settings=SHORT),
        CaptionOutput: SkillRequest(Skill.CAPTION, image, length="short", settings=SHORT),
    }
    for kind, request in kinds.items():
        for name in ("tiny-fake", "moondream3-preview"):
            answer = await stack.inference.answer(ask(name, request))
            assert isinstance(answer.output, kind)
            assert (answer.policy.base, answer.policy.finetune_id, answer.policy.adapter_digest) == (
                "tiny-fake",
                "",
                "",
            )
            assert answer.usage.input_tokens > 17
            assert answer.usage.output_tokens > 0


async def test_saved_steps_are_served_at_once_and_say_what_they_are(stack: ModelStack, saved: Finetune) -> None:
    base = await stack.inference.answer(ask("tiny-fake"))
    answers = [await stack.inference.answer(ask(f"moondream3-preview/{saved.id}@{step}")) for step in (2, 3)]
    short = await stack.inference.answer(ask(f"{saved.id}/3"))
    assert answers[0].output != base.output
    assert short == replace(answers[1], usage=short.usage)
    assert [(each.policy.finetune_id, each.policy.step) for each in answers] == [(saved.id, 2), (saved.id, 3)]
    assert answers[1].policy.adapter_digest == saved.adapter_digest
    assert answers[0].policy.adapter_digest != saved.adapter_digest
    rolled = await stack.rollout.generate(rollouts_of(saved))
    assert rolled.rollouts[0].output == answers[1].output  # what was trained is what is served


def rollouts_of(saved: Finetune) -> RolloutOrder:
    return RolloutOrder(f"tiny-fake/{saved.id}@3", replace(detect(), settings=GREEDY), 1, 3)


async def test_an_unsaved_step_is_not_served(stack: ModelStack, saved: Finetune) -> None:
    with pytest.raises(CheckpointNotFound, match=r"no saved checkpoint at step 1; saved: 2, 3\. Only saved steps"):
        await stack.inference.answer(ask(f"tiny-fake/{saved.id}@1"))
    with pytest.raises(CheckpointNotFound, match=MISSING):
        await stack.inference.answer(ask(f"tiny-fake/{MISSING}@1"))


async def test_an_unsaved_step_among_many_names_the_newest_whatever_is_damaged(
    stack: ModelStack, saved: Finetune
) -> None:
    with edited(stack, saved) as model:
        folder = stack.folder / "data" / "checkpoints" / model.partition("/")[2][:-2]
        manifest = unsealed(folder / "00000003" / "manifest.json")
        for step in range(4, 14):
            (folder / f"{step:08d}").mkdir()
            (folder / f"{step:08d}" / "manifest.json").write_text(json.dumps(manifest | {"step": step}))
        (folder / "00000013" / "manifest.json").write_text("{damaged")
        with pytest.raises(CheckpointNotFound, match=r"saved: 6, 7, 8, 9, 10, 11, 12, 13 and 3 earlier\. Only saved"):
            await stack.inference.answer(ask(model[:-1] + "99"))
    with (
        edited(stack, saved, organisation="another") as model,
        pytest.raises(CheckpointNotFound, match="it has none, or is not yours"),
    ):
        await stack.inference.answer(ask(model[:-1] + "99"))


@pytest.mark.slow
async def test_a_fresh_process_serves_from_the_store_alone(stack: ModelStack, saved: Finetune) -> None:
    wanted = await stack.inference.answer(ask(f"tiny-fake/{saved.id}@3"))
    settings = InferenceSettings(
        port=0,
        base=str(stack.folder / "base"),
        device="cpu",
        checkpoint_store=str(stack.folder / "data" / "checkpoints"),
        recheck_s=0.0,
    )

    async def start(chassis: Chassis) -> None:
        await build(chassis, settings)

    async with (
        opened([ServiceApp("inference", settings, start)], settings.worker()) as [chassis],
        InferenceClient(f"127.0.0.1:{chassis.port}") as client,
    ):
        got = await client.answer(ask(f"tiny-fake/{saved.id}@3"))
        assert got == replace(wanted, usage=got.usage)


@contextlib.contextmanager
def edited(stack: ModelStack, saved: Finetune, **changes: object) -> Generator[str]:
    """A copy of the saved step 3 under another id, its manifest changed; gives the model string of the copy."""
    finetune_id = MISSING[:-1] + "W"
    store = stack.folder / "data" / "checkpoints"
    source, target = store / saved.id / "00000003", store / finetune_id / "00000003"
    shutil.copytree(source, target)
    manifest = unsealed(target / "manifest.json")
    (target / "manifest.json").write_text(json.dumps(manifest | {"finetune_id": finetune_id} | changes))
    try:
        yield f"tiny-fake/{finetune_id}@3"
    finally:
        shutil.rmtree(target.parent)


def unsealed(manifest: Path) -> dict[str, object]:
    """A manifest without the digest over itself, as those of before had none."""
    return {name: value for name, value in json.loads(manifest.read_text()).items() if name != "sha256"}


async def test_other_organisations_and_bases_are_kept_apart(stack: ModelStack, saved: Finetune) -> None:
    names = ["tiny-fake", f"tiny-fake/{saved.id}@3", f"tiny-fake/{saved.id}@2"]
    with edited(stack, saved, organisation="somebody") as foreign:
        with pytest.raises(CheckpointNotFound, match="it has none, or is not yours"):
            await stack.inference.answer(ask(foreign))
        assert [model.name for model in (await stack.inference.list_models()).items] == names
    with edited(stack, saved, base="moondream2", base_digest="sha256:" + "0" * 64) as elsewhere:
        with pytest.raises(WrongBase, match=r"on base moondream2 .*this process serves tiny-fake"):
            await stack.inference.answer(ask(elsewhere))
        assert [model.name for model in (await stack.inference.list_models()).items] == names


async def test_a_damaged_checkpoint_is_not_served_and_hides_no_other(stack: ModelStack, saved: Finetune) -> None:
    with edited(stack, saved, adapter_digest="sha256:" + "1" * 64) as name, pytest.raises(CheckpointCorrupt):
        await stack.inference.answer(ask(name))
    with edited(stack, saved, step="three") as name:
        with pytest.raises(CheckpointCorrupt, match="is not a manifest"):
            await stack.inference.answer(ask(name))
        assert len((await stack.inference.list_models()).items) == 3


async def test_models_are_paged(stack: ModelStack, saved: Finetune) -> None:
    first = await stack.inference.list_models(page_size=2)
    rest = await stack.inference.list_models(page_size=2, page_token=first.next_page_token)
    assert [len(first.items), len(rest.items), rest.next_page_token] == [2, 1, ""]
    assert first.items[0].created_at is None
    assert rest.items[0].policy.step == 2
    with pytest.raises(InvalidField, match="page_token is 'nonsense'"):
        await stack.inference.list_models(page_token="nonsense")


async def test_adapters_come_and_go(stack: ModelStack, saved: Finetune) -> None:
    model = f"tiny-fake/{saved.id}@2"
    await stack.inference.unload_adapter(model)
    assert (await stack.inference.adapter_status(model)).state is AdapterState.ABSENT
    loaded = await stack.inference.load_adapter(model, pinned=True)
    assert (loaded.state, loaded.pinned, loaded.policy.step) == (AdapterState.DEVICE, True, 2)
    assert loaded.size_bytes > 0
    assert (await stack.inference.load_adapter(model)).pinned
    answer = await stack.inference.answer(ask(model))
    assert answer.policy.adapter_digest == loaded.policy.adapter_digest
    assert (await stack.inference.unload_adapter(model)).state is AdapterState.ABSENT
    assert (await stack.inference.unload_adapter(model)).state is AdapterState.ABSENT
    again = await stack.inference.answer(ask(model))
    assert again.output == answer.output
    with pytest.raises(InvalidField, match=r"model is 'tiny-fake'; allowed: <base>/<finetune_id>@<step>"):
        await stack.inference.load_adapter("tiny-fake")


async def test_versions_and_unloads_under_streams(stack: ModelStack, saved: Finetune) -> None:
    """Streams of the base and of two versions while both are unloaded again and again: each is its own weights'."""
    models = ["tiny-fake", f"tiny-fake/{saved.id}@2", f"tiny-fake/{saved.id}@3"]
    wanted = [await stack.inference.answer(ask(model)) for model in models]
    assert len({each.policy.adapter_digest for each in wanted}) == 3
    done = asyncio.Event()

    async def unload() -> int:
        times = 0
        while not done.is_set():
            for model in models[1:]:
                await stack.inference.unload_adapter(model)
                times += 1
        return times

    async def streamed(model: str) -> InferenceResult:
        events = [event async for event in stack.inference.stream(ask(model))]
        assert isinstance(events[-1], InferenceResult)
        return events[-1]

    unloading = asyncio.create_task(unload())
    for _ in range(10):
        got = await asyncio.gather(*(streamed(model) for model in models for _ in range(2)))
        for index, answer in enumerate(got):
            assert (answer.output, answer.policy) == (wanted[index // 2].output, wanted[index // 2].policy)
    done.set()
    assert await unloading > 0


BAD = {
    "another base": (ask("moondream9"), ModelNotFound, "'moondream9'; this process serves 'tiny-fake'"),
    "a finetune on another base": (
        ask(f"moondream9/{MISSING}@1"),
        ModelNotFound,
        f"'moondream9/{MISSING}@1'; this process serves 'tiny-fake'",
    ),
    "not an id": (ask("b/nonsense@1"), InvalidField, "input.model is 'b/nonsense@1'"),
    "not an image": (
        ask("tiny-fake", replace(detect(), image=Image.of(b"nothing"))),
        ImageInvalid,
        r"input\.images\[0\] is '7 bytes",
    ),
    "unknown digest": (
        ask("tiny-fake", replace(detect(), image=Image("a" * 64))),
        ImageUnknown,
        "send its bytes once",
    ),
    "temperature": (
        ask("tiny-fake", replace(detect(), settings=SamplingSettings(9.0))),
        InvalidField,
        r"temperature is 9.0; allowed: 0 \(greedy\) or 0.01 to 4",
    ),
    "place outside": (
        ask("tiny-fake", SkillRequest(Skill.POINT, picture(), object="x", spatial_refs=(Point(-0.1, 0.0),))),
        InvalidField,
        r"task\.spatial_refs\[0\].*x is -0.1",
    ),
    "too long": (
        ask("tiny-fake", SkillRequest(Skill.QUERY, picture(), question="word " * 100)),
        InvalidField,
        r"task\.question is '503 tokens with the template'; allowed: at most \d+ tokens",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_says_what_was_given_and_what_is_allowed(stack: ModelStack, name: str) -> None:
    asked, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        await stack.inference.answer(asked)
    assert type(caught.value) is error


STREAMED = {
    Skill.DETECT: SkillRequest(Skill.DETECT, picture(), object="cup", settings=GREEDY),
    Skill.POINT: SkillRequest(Skill.POINT, picture(), object="cup", settings=GREEDY),
    Skill.QUERY: SkillRequest(Skill.QUERY, picture(), question="what?", settings=GREEDY),
    Skill.CAPTION: SkillRequest(Skill.CAPTION, picture(), length="short", settings=SHORT),
}


@pytest.mark.parametrize("skill", STREAMED)
async def test_a_stream_is_the_whole_answer_in_pieces(stack: ModelStack, saved: Finetune, skill: Skill) -> None:
    for model in ("tiny-fake", f"tiny-fake/{saved.id}@3"):
        whole = await stack.inference.answer(ask(model, STREAMED[skill]))
        *pieces, last = [event async for event in stack.inference.stream(ask(model, STREAMED[skill]))]
        assert last == replace(whole, usage=last.usage)
        assert last.usage.output_tokens == whole.usage.output_tokens
        match whole.output:
            case DetectOutput(objects):
                assert pieces == list(objects)
            case PointOutput(points):
                assert pieces == list(points)
            case QueryOutput(answer):
                assert "".join(piece.text for piece in pieces if not piece.reasoning) == answer
            case CaptionOutput(caption):
                assert "".join(piece.text for piece in pieces) == caption


async def test_a_stream_of_bad_input_says_so_before_its_first_piece(stack: ModelStack) -> None:
    with pytest.raises(CheckpointNotFound, match=MISSING):
        async for _ in stack.inference.stream(ask(f"tiny-fake/{MISSING}@1")):
            pass
    with pytest.raises(InvalidField, match=r"temperature is 9.0"):
        async for _ in stack.inference.stream(ask("tiny-fake", replace(detect(), settings=SamplingSettings(9.0)))):
            pass


async def test_a_reader_that_leaves_a_stream_frees_its_slot(stack: ModelStack) -> None:
    """The answer would take far more decisions than the engine makes of it once the reader has left."""
    longest = SkillRequest(Skill.QUERY, picture(), question="what?", settings=SamplingSettings(2.0, max_tokens=400))

    worker = stack.chassis["inference"].worker
    assert worker is not None

    async def status() -> EngineStatus:
        return await worker.call("engine", "status")

    before = (await status()).work.cancelled
    async with contextlib.aclosing(stack.inference.stream(ask("tiny-fake", longest))) as events:
        async for _ in events:
            break
    async with asyncio.timeout(60):
        while (await status()).running:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.02)
    assert (await status()).work.cancelled == before + 1


async def test_a_dead_trainer_stops_nothing(stack: ModelStack, saved: Finetune) -> None:
    """Runs last: the trainer does not come back."""
    await stack.trainer.save_checkpoint(saved.id, step=1)
    await stack.chassis["trainer"].close()
    with pytest.raises(Unavailable):
        async with TrainerClient(f"127.0.0.1:{stack.chassis['trainer'].port}", retry=RetryPolicy(attempts=1)) as dead:
            await dead.get_finetune(saved.id)
    for step in (1, 2, 3):
        assert (await stack.inference.answer(ask(f"tiny-fake/{saved.id}@{step}"))).policy.step == step
