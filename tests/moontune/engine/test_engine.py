"""What an order gets: independence from its batch, limits, cancellation, adapters, refusals."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, Generation, GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.errors import Cancelled, CheckpointCorrupt, ImageInvalid, ImageTooLarge, ImageUnknown, InvalidField
from moontune.imaging.decode import ImageLimits
from moontune.model import sampling
from moontune.model.base_model import BaseModel
from moontune.values.image import Image
from moontune.values.output import CaptionOutput, DetectOutput, PointOutput, QueryOutput
from moontune.values.rollout import FinishReason, Head, Rollout
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask
from tests.moontune.engine.test_agreement import MIXED

MakeOrder = Callable[..., GenerationOrder]
MakeAdapter = Callable[..., AdapterRef]


def assert_same(got: Generation, alone: Generation) -> None:
    for a, b in zip(got.group.rollouts, alone.group.rollouts, strict=True):
        assert [(each.head, each.choice, each.nucleus) for each in a.decisions] == [
            (each.head, each.choice, each.nucleus) for each in b.decisions
        ]
        logprobs = [each.logprob for each in b.decisions]
        assert [each.logprob for each in a.decisions] == pytest.approx(logprobs, abs=1e-5, rel=1e-5)
        assert (a.output, a.finish_reason, a.seed) == (b.output, b.finish_reason, b.seed)


def test_a_result_does_not_depend_on_its_batch(engine: Engine, base: BaseModel, make_order: MakeOrder) -> None:
    orders = [make_order(request, 1 + index % 4, index) for index, request in enumerate(MIXED)]
    together = engine.generate_all([(Caller(), order) for order in orders])
    fresh = Engine(base, EngineSettings(max_sequences=1))
    for got, order in zip(together, orders, strict=True):
        assert_same(got, fresh.generate(Caller(), order))


def test_the_seed_decides(engine: Engine, make_order: MakeOrder) -> None:
    request = ask(Skill.DETECT)
    first, again, other = (engine.generate(Caller(), make_order(request, 6, seed)) for seed in (1, 1, 2))
    assert_same(again, first)
    assert [r.output for r in other.group.rollouts] != [r.output for r in first.group.rollouts]
    assert len({rollout.seed for rollout in first.group.rollouts}) == 6


def test_greedy_rollouts_are_equal_and_cost_nothing(engine: Engine, make_order: MakeOrder) -> None:
    for skill in (Skill.QUERY, Skill.POINT, Skill.DETECT):
        group = engine.generate(Caller(), make_order(ask(skill, temperature=0.0), 3)).group
        assert len({rollout.decisions for rollout in group.rollouts}) == 1
        assert all(each.logprob == 0.0 for each in group.rollouts[0].decisions)


def test_a_close_greedy_call_is_settled_alone(
    base: BaseModel, make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every greedy choice counts as close here, so every greedy order must be decoded once more, by itself.
    monkeypatch.setattr(sampling, "CLOSE", 1e9)
    engine = Engine(base)
    orders = [make_order(ask(Skill.DETECT, f"thing {index}", temperature=0.0), 1) for index in range(3)]
    hot = make_order(ask(Skill.DETECT, "hot"), 1)
    together = engine.generate_all([(Caller(), order) for order in [*orders, hot]])
    assert engine.status().work.settled == 3, "each greedy order once more; the sampled one is left as it is"
    for got, order in zip(together[:3], orders, strict=True):
        alone = Engine(base)
        assert got.group == alone.generate(Caller(), order).group
        assert alone.status().work.settled == 1, "memory keeps the shape of what ran before, so nobody is exempt"


def test_greedy_and_sampled_share_a_batch(engine: Engine, make_order: MakeOrder) -> None:
    cold, hot = make_order(ask(Skill.QUERY, temperature=0.0), 2), make_order(ask(Skill.QUERY, "else"), 2)
    first, second = engine.generate_all([(Caller(), cold), (Caller(), hot)])
    assert_same(first, engine.generate(Caller(), cold))
    assert_same(second, engine.generate(Caller(), hot))


@pytest.mark.parametrize(
    ("skill", "kind"),
    [
        (Skill.QUERY, QueryOutput),
        (Skill.POINT, PointOutput),
        (Skill.DETECT, DetectOutput),
        (Skill.CAPTION, CaptionOutput),
    ],
)
def test_every_skill_answers(engine: Engine, make_order: MakeOrder, skill: Skill, kind: type) -> None:
    answer = engine.generate(Caller(), make_order(ask(skill), 2))
    assert all(isinstance(rollout.output, kind) for rollout in answer.group.rollouts)
    assert answer.usage.input_tokens > 17  # BOS and 16 image tokens, and a prompt
    assert answer.usage.output_tokens == sum(len(rollout.decisions) for rollout in answer.group.rollouts)


def stops(rollout: Rollout, eos_id: int) -> bool:
    last = rollout.decisions[-1]
    return last.choice == 0 if last.head is Head.GO else last.head is Head.TOKEN and last.choice == eos_id


@pytest.mark.parametrize("skill", [Skill.QUERY, Skill.POINT, Skill.DETECT])
def test_a_limit_cuts_without_a_stop_decision(
    engine: Engine, base: BaseModel, make_order: MakeOrder, skill: Skill
) -> None:
    request = ask(skill, max_tokens=9, max_objects=2, temperature=1.5)
    rollouts = engine.generate(Caller(), make_order(request, 64)).group.rollouts
    ends = {rollout.finish_reason for rollout in rollouts}
    assert ends == {FinishReason.STOP, FinishReason.LENGTH} or skill is Skill.QUERY
    for rollout in rollouts:
        assert (rollout.finish_reason is FinishReason.STOP) == stops(rollout, base.config.tokenizer.eos_id)
        objects = sum(each.head is Head.X for each in rollout.decisions)
        assert objects <= 2
        if skill is Skill.QUERY:
            assert len(rollout.decisions) <= 9


def test_positions_count_against_max_tokens(engine: Engine, make_order: MakeOrder) -> None:
    for skill, most in ((Skill.DETECT, 2), (Skill.POINT, 3)):
        request = ask(skill, max_tokens=7, max_objects=50, temperature=4.0)
        rollouts = engine.generate(Caller(), make_order(request, 64)).group.rollouts
        assert max(sum(each.head is Head.X for each in rollout.decisions) for rollout in rollouts) == most


def test_the_context_cuts(engine: Engine, base: BaseModel, make_order: MakeOrder) -> None:
    room = 5
    prompt = base.config.text.max_context - base.config.prefix_length - room - 3  # two template ids, one suffix
    request = ask(Skill.QUERY, "x" * prompt, max_tokens=500, temperature=1.5)
    rollouts = engine.generate(Caller(), make_order(request, 8)).group.rollouts
    assert max(len(rollout.decisions) for rollout in rollouts) == room
    with pytest.raises(InvalidField, match=r"request\.question is .*tokens.*; allowed: at most \d+ tokens"):
        engine.generate(Caller(), make_order(ask(Skill.QUERY, "x" * (prompt + room)), 1))


def test_one_bad_order_does_not_spoil_the_batch(engine: Engine, make_order: MakeOrder) -> None:
    good, bad = make_order(ask(Skill.DETECT)), make_order(replace(ask(Skill.DETECT), image=Image.of(b"not an image")))
    with pytest.raises(ImageInvalid, match=r"request\.images\[0\] is '12 bytes"):
        engine.generate_all([(Caller(), bad), (Caller(), good)])
    assert engine.generate(Caller(), good).group.rollouts


def test_refusals(engine: Engine, make_order: MakeOrder, make_adapter: MakeAdapter) -> None:
    request = ask(Skill.DETECT)
    for count in (0, 65):
        with pytest.raises(InvalidField, match=rf"num_rollouts is {count}; allowed: 1 to 64"):
            engine.generate(Caller(), make_order(request, count))
    with pytest.raises(ImageUnknown, match="send its bytes once"):
        engine.generate(Caller(), make_order(replace(request, image=Image("0" * 64))))
    with pytest.raises(InvalidField, match=r"max_tokens is 2; allowed: at least 3 for detect"):
        engine.generate(Caller(), make_order(ask(Skill.DETECT, max_tokens=2)))
    missing = replace(make_adapter(1), path="/nowhere", digest="sha256:" + "f" * 64)
    with pytest.raises(CheckpointCorrupt, match="/nowhere"):
        engine.generate(Caller(), make_order(request, 1, adapter=missing))
    assert engine.generate(Caller(), make_order(request)).group.rollouts  # the engine goes on


def test_too_many_pixels(base: BaseModel, make_order: MakeOrder) -> None:
    strict = Engine(base, EngineSettings(image_limits=ImageLimits(pixels=100)))
    with pytest.raises(ImageTooLarge, match="at most 100 pixels"):
        strict.generate(Caller(), make_order(ask(Skill.DETECT)))


@pytest.mark.parametrize("polls", [0, 1, 4])
def test_a_caller_that_leaves_frees_its_rows(engine: Engine, make_order: MakeOrder, polls: int) -> None:
    leaving = Caller(patience=polls)
    long = make_order(ask(Skill.QUERY, "long", max_tokens=120), 8)
    other = make_order(ask(Skill.QUERY, "other", max_tokens=30), 2)
    with pytest.raises(Cancelled):
        engine.generate_all([(leaving, long), (Caller(), other)])
    assert leaving.polls == polls + 1  # never asked again, and not one step later
    assert_same(engine.generate(Caller(), other), engine.generate(Caller(), other))


def test_many_threads_meet_in_few_batches(base: BaseModel, make_order: MakeOrder) -> None:
    engine = Engine(base, EngineSettings())
    orders = [make_order(request, 2, index) for index, request in enumerate(MIXED)]
    results: dict[int, Generation] = {}

    def run(index: int) -> None:
        results[index] = engine.generate(Caller(), orders[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, order in enumerate(orders):
        assert_same(results[index], engine.generate(Caller(), order))


def test_an_image_is_encoded_once(engine: Engine, make_order: MakeOrder) -> None:
    engine.generate_all([(Caller(), make_order(ask(Skill.DETECT))), (Caller(), make_order(ask(Skill.POINT)))])
    engine.generate(Caller(), make_order(ask(Skill.QUERY)))
    images = engine.status().caches[0]
    assert (images.name, images.hits, images.misses) == ("image", 1, 1)
    named = replace(ask(Skill.QUERY), image=ask(Skill.QUERY).image.named())  # pyright: ignore[reportOptionalMemberAccess]
    assert engine.generate(Caller(), make_order(named)).group.rollouts  # its tokens are held, so no bytes are needed


def test_who_stays_is_not_disturbed_by_who_leaves(base: BaseModel, make_order: MakeOrder) -> None:
    engine = Engine(base, EngineSettings())
    leaving, staying = Caller(patience=3), Caller()
    lost = make_order(ask(Skill.QUERY, "lost", max_tokens=60, temperature=2.0), 5)
    kept = make_order(ask(Skill.QUERY, "kept", max_tokens=60, temperature=2.0), 3)
    results: list[Generation] = []

    def leave() -> None:
        with pytest.raises(Cancelled):
            engine.generate(leaving, lost)

    def stay() -> None:
        results.append(engine.generate(staying, kept))

    threads = [threading.Thread(target=leave), threading.Thread(target=stay)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results[0], Engine(base, EngineSettings()).generate(Caller(), kept))
