"""Who runs next, without a model: limits hold, nobody starves."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontune.engine.byte_cache import ByteCache
from moontune.engine.noise import uniforms
from moontune.engine.order import rollout_seed
from moontune.engine.residency import Residency
from moontune.engine.scheduler import PATIENCE, Demand, Limits, Scheduler
from moontune.errors import InvalidField


@dataclass(eq=False)
class Job:
    """An order of the simulation: rollouts end `steps` steps after they start."""

    name: str
    demand: Demand
    steps: int = 3
    submitted: int = 0
    started: list[int] = field(default_factory=list)


class Room:
    """The device tier's book-keeping without a device."""

    def __init__(self, budget_bytes: int) -> None:
        self.tier = Residency(budget_bytes)

    def reserve(self, digest: str, size_bytes: int) -> bool:
        return self.tier.reserve(digest, size_bytes) is not None

    def release(self, digest: str) -> None:
        self.tier.release(digest)


def scheduler(max_sequences: int = 8, kv_positions: int = 8 * 64, adapters: int = 2) -> tuple[Scheduler[Job], Room]:
    room = Room(adapters)
    return Scheduler(Limits(max_sequences, kv_positions, 1), room), room


def run(line: Scheduler[Job], room: Room, jobs: list[Job], arrivals: list[int] | None = None) -> int:
    """Simulate decode steps until all have ended; checks the limits at every step and returns the number of steps."""
    ends: dict[int, list[Job]] = {}
    waiting = sorted(zip(arrivals or [0] * len(jobs), range(len(jobs)), jobs, strict=True), reverse=True)
    step, left = 0, sum(job.demand.sequences for job in jobs)
    while left:
        while waiting and waiting[-1][0] <= step:
            job = waiting.pop()[2]
            job.submitted = step
            line.submit(job, job.demand)
        for start in line.admit():
            assert start.first == len(start.order.started)
            start.order.started += [step] * start.count
            ends.setdefault(step + start.order.steps, []).extend([start.order] * start.count)
        assert line.running <= line.limits.max_sequences
        assert line.kv_needed <= line.limits.kv_bytes
        assert room.tier.resident_bytes <= room.tier.budget_bytes
        for job, count in Counter(ends.pop(step, [])).items():
            line.finish(job, count)
            left -= count
        step += 1
        assert step < 10_000, "somebody never runs"
    assert line.running == line.waiting == 0
    assert not any(room.tier.users(digest) for digest in room.tier.resident)
    return step


def test_orders_start_in_order_and_a_large_one_starts_bit_by_bit() -> None:
    line, room = scheduler(max_sequences=8)
    jobs = [Job("a", Demand(6, 64)), Job("b", Demand(20, 64)), Job("c", Demand(2, 64))]
    run(line, room, jobs)
    assert jobs[0].started == [0] * 6
    assert jobs[1].started[:2] == [0, 0], "what is free goes to the next in line, though it is not enough for all of it"
    assert min(jobs[2].started) >= max(jobs[1].started)


def test_memory_is_waited_for() -> None:
    # One row of 512 positions fills the budget of 512; eight rows of 64 do so too.
    line, room = scheduler(max_sequences=64, kv_positions=512)
    jobs = [Job("small", Demand(8, 60)), Job("long", Demand(2, 500)), Job("small too", Demand(1, 60))]
    run(line, room, jobs)
    assert jobs[0].started == [0] * 8
    assert jobs[1].started == [4, 8], "rows leave at the end of step 3: the long ones follow one by one"


def test_what_can_never_fit_is_refused_with_figures() -> None:
    limits = Limits(8, 1000 * 10, 10)
    limits.check(Demand(1, 896, prefix=64), "max_tokens")
    with pytest.raises(
        InvalidField, match=r"897 positions of 10 bytes behind a prompt of 64.*at most 896 .*10000 bytes"
    ):
        limits.check(Demand(1, 897, prefix=64), "max_tokens")


def test_residents_pass_a_head_that_waits_for_an_adapter_but_not_for_ever() -> None:
    line, room = scheduler(max_sequences=4, kv_positions=64 * 64, adapters=1)
    busy = [Job(f"busy{i}", Demand(1, 64, adapter="x", adapter_bytes=1), steps=2 + i % 3) for i in range(3 * PATIENCE)]
    rare = Job("rare", Demand(1, 64, adapter="y", adapter_bytes=1))
    jobs = [*busy[:4], rare, *busy[4:]]
    run(line, room, jobs)
    before = sum(job.started[0] < rare.started[0] for job in busy[4:])
    assert 0 < before <= PATIENCE


def test_who_leaves_makes_room() -> None:
    line, room = scheduler(max_sequences=2)
    first, second = Job("first", Demand(4, 64, adapter="x", adapter_bytes=1)), Job("second", Demand(2, 64))
    line.submit(first, first.demand)
    line.submit(second, second.demand)
    assert [(start.order.name, start.count) for start in line.admit()] == [("first", 2)]
    line.withdraw(first)
    assert (line.running, line.waiting, room.tier.users("x")) == (0, 2, 0)
    assert [(start.order.name, start.count) for start in line.admit()] == [("second", 2)]


def test_one_to_be_run_again_alone_goes_first() -> None:
    line, _ = scheduler(max_sequences=1)
    again, other = Job("again", Demand(1, 64, alone=True)), Job("other", Demand(1, 64))
    line.submit(other, other.demand)
    line.submit(again, again.demand)
    assert [start.order.name for start in line.admit()] == ["again"]


def test_those_to_be_run_again_alone_run_one_at_a_time_and_hold_up_nobody_else() -> None:
    line, _ = scheduler(max_sequences=100)
    first, second, other = (Job(name, Demand(2, 64, alone=name != "other")) for name in ("first", "second", "other"))
    for job in (other, second, first):
        line.submit(job, job.demand)
    assert [start.order.name for start in line.admit()] == ["first", "other"]
    line.finish(first, 1)
    assert line.admit() == []
    line.finish(first, 1)
    assert [start.order.name for start in line.admit()] == ["second"]


DEMANDS = st.builds(
    Demand,
    sequences=st.integers(1, 20),
    room=st.integers(1, 256),
    prefix=st.integers(1, 256),
    adapter=st.sampled_from(["", "a", "b", "c", "d"]),
    adapter_bytes=st.just(1),
)


@given(
    st.lists(st.tuples(DEMANDS, st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=25),
    st.integers(1, 12),
    st.integers(512, 4096),
    st.integers(1, 3),
)
def test_everybody_runs_within_the_limits(
    asked: list[tuple[Demand, int, int]], max_sequences: int, kv_positions: int, adapters: int
) -> None:
    line, room = scheduler(max_sequences, kv_positions, adapters)
    jobs = [Job(str(index), demand, steps) for index, (demand, steps, _) in enumerate(asked)]
    run(line, room, jobs, [arrival for _, _, arrival in asked])
    assert all(len(job.started) == job.demand.sequences for job in jobs)


def test_a_working_set_of_twice_the_slots_is_served_fairly() -> None:
    """Eight adapters take turns over four slots; nobody waits much longer than anybody else, counted in steps."""
    line, room = scheduler(max_sequences=16, kv_positions=64 * 64, adapters=4)
    jobs = [Job(f"{i}", Demand(1, 64, adapter=f"adapter{i % 8}", adapter_bytes=1), steps=5) for i in range(400)]
    steps = run(line, room, jobs, [i // 3 for i in range(400)])
    waits = sorted(job.started[0] - job.submitted for job in jobs)
    by_adapter = [sorted(job.started[0] - job.submitted for job in jobs[i::8])[47] for i in range(8)]
    assert steps <= 400 * 5 // 16 * 3, "within three times of what full batches would take"
    assert max(by_adapter) <= 1.5 * min(by_adapter) + 10
    assert waits[int(0.95 * len(waits))] <= 2 * max(1, waits[len(waits) // 2]) + 20


def test_rollout_seeds_differ_and_stay() -> None:
    seeds = {rollout_seed(seed, index) for seed in range(50) for index in range(64)}
    assert len(seeds) == 50 * 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rollout_seed(0, 0) == 6213027144842677344  # a change would change every recorded run


def test_noise_is_split_mix_64() -> None:
    # The published first outputs of SplitMix64 for seed 1234567, taken to 53 bits.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    drawn = uniforms(np.array([1234567, 1234567], dtype=np.uint64), np.array([0, 1]))
    assert drawn.ravel().tolist() == [(value >> 11) * 2.0**-53 for value in known]


def test_noise_is_even_and_rows_are_strangers() -> None:
    drawn = uniforms(np.arange(200, dtype=np.uint64), np.full(200, 7))
    many = uniforms(np.full(20000, 5, dtype=np.uint64), np.arange(20000))
    assert abs(many.mean() - 0.5) < 4 * 0.289 / 40000**0.5
    assert len(set(drawn.ravel().tolist())) == 400
    assert abs(np.corrcoef(many.T)[0, 1]) < 4 / 20000**0.5


def test_the_cache_keeps_its_budget() -> None:
    cache: ByteCache[str, int] = ByteCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert cache.get("b") is None
    assert (cache.resident_bytes, cache.hits, cache.misses, cache.evictions) == (8, 1, 1, 1)
    cache.put("huge", 4, 11)
    assert "huge" not in cache
    cache.put("a", 5, 2)
    assert (cache.get("a"), cache.resident_bytes) == (5, 6)


def test_residency_never_lets_go_of_what_is_in_use_or_pinned() -> None:
    tier = Residency(10)
    assert tier.reserve("used", 4) == []
    assert tier.reserve("pinned", 4) == []
    tier.pin("pinned")
    tier.release("pinned")
    assert tier.reserve("new", 4) is None, "8 of 10 bytes cannot go"
    assert tier.reserve("small", 2) == []
    tier.release("small")
    assert tier.reserve("other", 2) == ["small"]
    tier.release("used")
    tier.release("other")
    assert tier.reserve("new", 4) == ["used"], "the least recently used goes first, and no more than needed"
    assert (tier.hits, tier.misses, tier.evictions, tier.resident_bytes) == (0, 5, 2, 10)
    assert tier.remove("pinned") is True
    assert tier.remove("pinned") is False
