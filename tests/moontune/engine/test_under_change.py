"""Adapters come and go while mixed traffic runs: every answer is its own weights' answer, and nobody is shut out."""

import random
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, Generation, GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.errors import Cancelled, InvalidField
from moontune.model.base_model import BaseModel
from moontune.values.adapter import AdapterState
from moontune.values.finetune import LoraTarget
from moontune.values.geometry import Box
from moontune.values.inference import TextDelta
from moontune.values.output import DetectOutput, QueryOutput
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask
from tests.moontune.engine.test_engine import assert_same

MakeOrder = Callable[..., GenerationOrder]
MakeAdapter = Callable[..., AdapterRef]


def in_threads(work: list[Callable[[], None]]) -> None:
    """Run all at once; the first exception of any is raised here."""
    errors: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_loads_and_unloads_under_mixed_streams(
    base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    """100 loads and unloads beside four callers; every response is what its adapter alone gives, under its digest."""
    adapters = [
        None,
        make_adapter(11),
        make_adapter(12, rank=8),
        make_adapter(13, (LoraTarget.VISION, LoraTarget.TEXT_MLP)),
        make_adapter(14, (LoraTarget.REGION,), rank=2),
    ]
    requests = [ask(Skill.DETECT), ask(Skill.POINT, "a", 1), ask(Skill.QUERY, "why?", 2, temperature=0.7)]
    orders = {(r, a): make_order(requests[r], 2, r, adapters[a]) for r in range(3) for a in range(5)}
    reference = Engine(base, EngineSettings(max_sequences=1, prefix_cache_bytes=0))
    expected = {key: reference.generate(Caller(), each) for key, each in orders.items()}
    engine = Engine(base)
    done = threading.Event()

    def swap() -> None:
        draw = random.Random(0)
        try:
            for _ in range(100):
                adapter = draw.choice(adapters[1:])
                engine.load(Caller(), adapter)
                engine.unload(Caller(), adapter.digest)
        finally:
            done.set()

    def ask_on(seed: int) -> Callable[[], None]:
        def run() -> None:
            draw = random.Random(seed)
            while not done.is_set():
                key = draw.choice(list(orders))
                got = engine.generate(Caller(), orders[key])
                assert_same(got, expected[key])
                digest = "" if adapters[key[1]] is None else adapters[key[1]].digest
                assert {rollout.policy.adapter_digest for rollout in got.group.rollouts} == {digest}

        return run

    in_threads([swap, *(ask_on(seed) for seed in range(4))])
    assert all(each.active_requests == 0 for each in engine.status().adapters)


def test_unload_waits_for_the_rollouts_that_run(
    base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    engine, adapter = Engine(base), make_adapter(21)
    order = make_order(ask(Skill.QUERY, "long", max_tokens=60, temperature=2.0), 16, 3, adapter)
    expected = Engine(base).generate(Caller(), order)
    started, unloaded = threading.Event(), threading.Event()
    got: list[Generation] = []

    class Watched(Caller):
        """Lets the unload begin once its first step was taken, and ends no sooner than the unload waits."""

        def cancelled(self) -> bool:
            if super().cancelled() or self.polls > 3:
                started.set()
            assert not unloaded.is_set(), "the adapter left while its rollouts ran"
            return False

    def generate() -> None:
        got.append(engine.generate(Watched(), order))

    def unload() -> None:
        assert started.wait(60)
        assert engine.unload(Caller(), adapter.digest) in (True, False)
        unloaded.set()

    in_threads([generate, unload])
    assert_same(got[0], expected)
    assert all(each.policy.adapter_digest != adapter.digest for each in engine.status().adapters)
    assert_same(engine.generate(Caller(), order), expected)  # a later order loads it anew
    assert engine.unload(Caller(), adapter.digest) is True
    assert engine.unload(Caller(), adapter.digest) is False


def test_a_working_set_of_twice_the_slots_is_right_and_fair(
    base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    adapters = [make_adapter(30 + index) for index in range(8)]
    probe = Engine(base)
    probe.load(Caller(), adapters[0])
    slot_bytes = probe.status().adapters[0].size_bytes
    engine = Engine(base, EngineSettings(adapter_cache_bytes=4 * slot_bytes, max_sequences=8))
    orders = [make_order(ask(Skill.POINT, "x", temperature=1.0), 1, i, adapters[i % 8]) for i in range(64)]
    callers = [Caller() for _ in orders]
    got = engine.generate_all(list(zip(callers, orders, strict=True)))
    reference = Engine(base, EngineSettings(max_sequences=1))
    for answer, order in zip(got, orders, strict=True):
        assert_same(answer, reference.generate(Caller(), order))
    device = engine.status().caches[1]
    assert device.size_bytes <= device.budget_bytes
    assert device.evictions > 0
    # A caller is polled once a turn, so its polls are the steps it waited and ran. 64 orders of at most 9 steps in
    # batches of up to 8 take 72 steps when batches are full; adapters that wait for a slot cost some of that.
    polls = sorted(caller.polls for caller in callers)
    assert polls[int(0.95 * len(polls))] <= 4 * 72


def test_budgets_hold_and_what_cannot_fit_is_refused_with_figures(
    base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(41)
    small = Engine(base, EngineSettings(adapter_cache_bytes=1000))
    with pytest.raises(InvalidField, match=r"adapter is '\d+ bytes'; allowed: at most 1000 bytes.* on its device"):
        small.generate(Caller(), make_order(ask(Skill.POINT), 1, adapter=adapter))
    small = Engine(base, EngineSettings(adapter_host_bytes=1000))
    with pytest.raises(InvalidField, match=r"adapter is '\d+ bytes'; allowed: at most 1000 bytes.* in memory"):
        small.generate(Caller(), make_order(ask(Skill.POINT), 1, adapter=adapter))
    # 2 layers, keys and values, 3 heads of 16, fp32: 768 bytes a position.
    tight = Engine(base, EngineSettings(kv_bytes=4 * 64 * 768))
    with pytest.raises(
        InvalidField, match=r"max_tokens is '200 positions of 768 bytes behind a prompt of 27'; allowed: at most 192 in"
    ):
        tight.generate(Caller(), make_order(ask(Skill.QUERY, max_tokens=200), 1))
    order = make_order(ask(Skill.QUERY, "x", max_tokens=20), 12)
    assert_same(tight.generate(Caller(), order), Engine(base).generate(Caller(), order))
    assert tight.status().work.row_steps <= 3 * tight.status().work.steps, "a prompt and three rows of 64 fit at once"


def test_a_pinned_adapter_stays(base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter) -> None:
    first, second, third = (make_adapter(50 + index) for index in range(3))
    probe = Engine(base)
    probe.load(Caller(), first)
    slot_bytes = probe.status().adapters[0].size_bytes
    engine = Engine(base, EngineSettings(adapter_cache_bytes=2 * slot_bytes))
    engine.load(Caller(), first, pinned=True)
    for adapter in (second, third, second):
        engine.generate(Caller(), make_order(ask(Skill.POINT), 1, adapter=adapter))
    states = {each.policy.adapter_digest: (each.state, each.pinned) for each in engine.status().adapters}
    assert states[first.digest] == (AdapterState.DEVICE, True)
    assert states[third.digest] == (AdapterState.HOST, False)


def test_a_streamed_answer_is_its_pieces(base: BaseModel, make_order: MakeOrder) -> None:
    engine = Engine(base)
    for seed in range(8):
        caller = Caller()
        order = make_order(ask(Skill.DETECT, temperature=1.2), 1, seed)
        whole = engine.generate(Caller(), order)
        streamed = engine.generate(caller, _streamed(order))
        assert_same(streamed, whole)
        output = streamed.group.rollouts[0].output
        assert isinstance(output, DetectOutput)
        assert tuple(caller.pieces) == output.objects
        assert all(isinstance(piece, Box) for piece in caller.pieces)
        caller = Caller()
        order = make_order(ask(Skill.QUERY, "think", reasoning=True, max_tokens=80, temperature=1.5), 1, seed)
        output = engine.generate(caller, _streamed(order)).group.rollouts[0].output
        assert isinstance(output, QueryOutput)
        deltas = [piece for piece in caller.pieces if isinstance(piece, TextDelta)]
        assert "".join(each.text for each in deltas if not each.reasoning) == output.answer
        assert output.reasoning is not None
        assert "".join(each.text for each in deltas if each.reasoning) == output.reasoning.text


def test_a_slow_reader_holds_up_only_itself(base: BaseModel, make_order: MakeOrder) -> None:
    engine, let_go = Engine(base), threading.Event()

    class Slow(Caller):
        def emit(self, item: object) -> None:
            assert let_go.wait(60)
            super().emit(item)

    slow = Slow()
    order = _streamed(make_order(ask(Skill.DETECT, temperature=1.2), 1, 3))
    thread = threading.Thread(target=lambda: engine.generate(slow, order))
    thread.start()
    other = make_order(ask(Skill.QUERY, "other", max_tokens=30), 2)
    assert_same(engine.generate(Caller(), other), Engine(base).generate(Caller(), other))
    let_go.set()
    thread.join()
    assert slow.pieces


def test_who_leaves_a_queue_is_answered_at_once(base: BaseModel, make_order: MakeOrder) -> None:
    engine = Engine(base, EngineSettings(max_sequences=1))
    long = make_order(ask(Skill.QUERY, "long", max_tokens=120, temperature=2.0), 2)
    impatient = Caller(patience=0)
    with pytest.raises(Cancelled):
        engine.generate_all([(Caller(), long), (impatient, make_order(ask(Skill.POINT), 1))])
    assert impatient.polls == 1
    assert engine.status().work.cancelled == 1


def test_a_failing_pass_fails_its_orders_and_the_engine_goes_on(
    base: BaseModel, make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, order = Engine(base), make_order(ask(Skill.POINT), 2)
    expected = engine.generate(Caller(), order)
    plain, left = engine._batches[0]._model.hidden, [2]

    def failing(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError("no more")
        return plain(*args, **kwargs)

    monkeypatch.setattr(engine._batches[0]._model, "hidden", failing)
    with pytest.raises(MemoryError, match="no more"):
        engine.generate(Caller(), make_order(ask(Skill.POINT, "other"), 2))
    monkeypatch.undo()
    assert_same(engine.generate(Caller(), order), expected)
    assert (engine.status().running, engine.status().waiting) == (0, 0)


def _streamed(order: GenerationOrder) -> GenerationOrder:
    return replace(order, stream=True)
