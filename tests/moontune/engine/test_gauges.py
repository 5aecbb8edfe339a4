"""An engine's status on the metrics page."""

from moontune.engine.gauges import set_gauges
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.engine import CacheStatus, EngineStatus


def status(running: int, hits: int, misses: int) -> EngineStatus:
    return EngineStatus("b", "d", "cpu", running, 2, 8, caches=(CacheStatus("image", 10 * hits, 99, hits, misses),))


def test_gauges_follow_and_counters_grow_by_the_difference() -> None:
    metrics = ServiceMetrics()
    first, second = status(3, 4, 1), status(0, 6, 1)
    set_gauges(metrics, EngineStatus("", "", "", 0, 0, 0), first)
    set_gauges(metrics, first, second)
    assert metrics.value(names.RUNNING) == 0
    assert metrics.value(names.WAITING) == 2
    assert metrics.value(names.CACHE_BYTES, cache="image") == 60
    assert metrics.value(names.CACHE_HITS, cache="image") == 6
    assert metrics.value(names.CACHE_MISSES, cache="image") == 1
