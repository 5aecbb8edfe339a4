"""An engine's state as Prometheus gauges, refreshed from the front. No torch."""

import asyncio
from typing import Any, Protocol

from moontune.errors import MoontuneError
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.engine import EngineStatus


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
    before = EngineStatus("", "", "", 0, 0, 0)
    while True:
        await asyncio.sleep(every_s)
        if not worker.ready:
            before = EngineStatus("", "", "", 0, 0, 0)  # a new worker counts from 0
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
    earlier = {cache.name: cache for cache in before.caches}
    for cache in now.caches:
        last = earlier.get(cache.name)
        metrics.gauge(names.CACHE_BYTES, cache=cache.name).set(cache.size_bytes)
        metrics.counter(names.CACHE_HITS, cache=cache.name).inc(max(0, cache.hits - (last.hits if last else 0)))
        metrics.counter(names.CACHE_MISSES, cache=cache.name).inc(max(0, cache.misses - (last.misses if last else 0)))
