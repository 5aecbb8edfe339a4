"""An engine's state as Prometheus gauges, refreshed from the front. No torch."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from moontune.errors import MoontuneError
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.adapter import AdapterState, AdapterStatus
from moontune.values.engine import CacheStatus, EngineStatus, EngineWork

EMPTY = EngineStatus("", "", "", 0, 0, 0)
"""What an engine has done before it starts."""


class Worker(Protocol):
    """The part of the model worker that is needed."""

    @property
    def ready(self) -> bool:
        """Whether it takes calls."""
        ...

    async def call(self, component: str, method: str, *args: object) -> Any:
        """Run a component's method."""
        ...


async def refresh_forever(worker: Worker, metrics: ServiceMetrics, every_s: float = 5.0) -> None:
    """Set the gauges from the engine's status again and again; a worker that is away is asked later."""
    before = EMPTY
    while True:
        await asyncio.sleep(every_s)
        if not worker.ready:
            before = replace(EMPTY, adapters=before.adapters)  # a new worker counts from 0, and holds none of them
            continue
        try:
            status: EngineStatus = await worker.call("engine", "status")
        except MoontuneError:
            continue
        set_gauges(metrics, before, status)
        before = status


def set_gauges(metrics: ServiceMetrics, before: EngineStatus, now: EngineStatus) -> None:
    """Gauges as of now; counters grow by what was counted since `before`."""
    metrics.gauge(names.RUNNING).set(now.running)
    metrics.gauge(names.WAITING).set(now.waiting)
    metrics.gauge(names.KV_BYTES).set(now.kv_bytes)
    metrics.gauge(names.KV_BUDGET_BYTES).set(now.kv_budget_bytes)
    _count_work(metrics, before.work, now.work)
    earlier = {cache.name: cache for cache in before.caches}
    for cache in now.caches:
        last = earlier.get(cache.name, CacheStatus(cache.name, 0, 0))
        metrics.gauge(names.CACHE_BYTES, cache=cache.name).set(cache.size_bytes)
        for counter, grown in (
            (names.CACHE_HITS, cache.hits - last.hits),
            (names.CACHE_MISSES, cache.misses - last.misses),
            (names.CACHE_EVICTIONS, cache.evictions - last.evictions),
        ):
            metrics.counter(counter, cache=cache.name).inc(max(0, grown))
    _show_adapters(metrics, before.adapters, now.adapters)


def _count_work(metrics: ServiceMetrics, before: EngineWork, now: EngineWork) -> None:
    for counter, grown in (
        (names.ENGINE_STEPS, now.steps - before.steps),
        (names.ENGINE_ROW_STEPS, now.row_steps - before.row_steps),
        (names.ENGINE_ADAPTER_STEPS, now.adapter_steps - before.adapter_steps),
        (names.ENGINE_CANCELLED, now.cancelled - before.cancelled),
        (names.ENGINE_SETTLED, now.settled - before.settled),
        (names.IMAGES_ENCODED, now.images - before.images),
        (names.IMAGE_ENCODE_SECONDS, now.images_s - before.images_s),
    ):
        metrics.counter(counter).inc(max(0, grown))


def _show_adapters(metrics: ServiceMetrics, before: Sequence[AdapterStatus], now: Sequence[AdapterStatus]) -> None:
    """One series for each adapter that is there; those of adapters that went away are removed."""
    metrics.gauge(names.ADAPTERS_DRAINING).set(sum(each.state is AdapterState.DRAINING for each in now))
    shown = {_short(each): each for each in now}
    for each in before:
        if (kept := shown.get(_short(each))) is None or kept.state is not each.state:
            metrics.remove(names.ADAPTER_RESIDENT, adapter=_short(each), tier=str(each.state))
    for adapter, each in shown.items():
        metrics.gauge(names.ADAPTER_RESIDENT, adapter=adapter, tier=str(each.state)).set(1)


def _short(adapter: AdapterStatus) -> str:
    return adapter.policy.adapter_digest.removeprefix("sha256:")[:12]
