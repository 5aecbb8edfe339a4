"""The queue, without a model."""

from collections.abc import Callable
from dataclasses import replace

from moontune.engine.byte_cache import ByteCache
from moontune.engine.order import AdapterRef, GenerationOrder, rollout_seed
from moontune.engine.scheduler import Entry, Scheduler
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask

MakeOrder = Callable[..., GenerationOrder]


def entries(make_order: MakeOrder, *wanted: tuple[str, int]) -> list[Entry]:
    request = ask(Skill.POINT)
    return [
        Entry(make_order(request, count, 0, AdapterRef(digest, "/") if digest else None), Caller())
        for digest, count in wanted
    ]


def test_orders_of_one_adapter_run_together_and_in_order(make_order: MakeOrder) -> None:
    scheduler = Scheduler(max_sequences=8)
    a, b, c, d, e = entries(make_order, ("x", 4), ("y", 4), ("x", 4), ("x", 1), ("y", 4))
    for entry in (a, b, c, d, e):
        scheduler.submit(entry)
    assert scheduler.sequences == 17
    assert scheduler.next_batch() == [a, c]
    assert scheduler.next_batch() == [b, e]
    assert scheduler.next_batch() == [d]
    assert scheduler.next_batch() == []


def test_a_large_order_runs_alone_and_small_ones_fill_gaps(make_order: MakeOrder) -> None:
    scheduler = Scheduler(max_sequences=8)
    a, b, c = entries(make_order, ("", 6), ("", 64), ("", 2))
    for entry in (a, b, c):
        scheduler.submit(entry)
    assert scheduler.next_batch() == [a, c]
    assert scheduler.next_batch() == [b]


def test_the_oldest_leads_however_busy_another_adapter_is(make_order: MakeOrder) -> None:
    scheduler = Scheduler(max_sequences=2)
    busy, rare = entries(make_order, ("busy", 2), ("rare", 1))
    scheduler.submit(busy)
    scheduler.submit(rare)
    scheduler.next_batch()
    for _ in range(3):
        scheduler.submit(replace(busy))
    assert scheduler.next_batch() == [rare]


def test_rollout_seeds_differ_and_stay() -> None:
    seeds = {rollout_seed(seed, index) for seed in range(50) for index in range(64)}
    assert len(seeds) == 50 * 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rollout_seed(0, 0) == 6213027144842677344  # a change would change every recorded run


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
