"""What an engine holds and does."""

from moontune.api.rollout.v1 import engine_status_pb2
from moontune.values.engine import CacheStatus, EngineStatus, EngineWork
from moontune.wire.adapter import adapter_status_from_proto, adapter_status_to_proto
from moontune.wire.checks import each, encodes, text


@encodes("status")
def engine_status_to_proto(status: EngineStatus) -> engine_status_pb2.EngineStatus:
    """The message."""
    return engine_status_pb2.EngineStatus(
        base=status.base,
        base_digest=status.base_digest,
        device=status.device,
        running=status.running,
        waiting=status.waiting,
        max_batch=status.max_batch,
        kv_bytes=status.kv_bytes,
        kv_budget_bytes=status.kv_budget_bytes,
        caches=[_cache_to_proto(cache) for cache in status.caches],
        adapters=[adapter_status_to_proto(adapter) for adapter in status.adapters],
        work=_work_to_proto(status.work),
    )


def engine_status_from_proto(message: engine_status_pb2.EngineStatus, field: str = "status") -> EngineStatus:
    """The value."""
    return EngineStatus(
        base=text(message.base, f"{field}.base"),
        base_digest=message.base_digest,
        device=message.device,
        running=message.running,
        waiting=message.waiting,
        max_batch=message.max_batch,
        kv_bytes=message.kv_bytes,
        kv_budget_bytes=message.kv_budget_bytes,
        caches=each(f"{field}.caches", message.caches, _cache_from_proto),
        adapters=each(f"{field}.adapters", message.adapters, adapter_status_from_proto),
        work=_work_from_proto(message.work),
    )


def _cache_to_proto(cache: CacheStatus) -> engine_status_pb2.CacheStatus:
    return engine_status_pb2.CacheStatus(
        name=cache.name,
        size_bytes=cache.size_bytes,
        budget_bytes=cache.budget_bytes,
        hits=cache.hits,
        misses=cache.misses,
        evictions=cache.evictions,
    )


def _cache_from_proto(message: engine_status_pb2.CacheStatus, field: str) -> CacheStatus:
    return CacheStatus(
        name=text(message.name, f"{field}.name"),
        size_bytes=message.size_bytes,
        budget_bytes=message.budget_bytes,
        hits=message.hits,
        misses=message.misses,
        evictions=message.evictions,
    )


def _work_to_proto(work: EngineWork) -> engine_status_pb2.EngineWork:
    return engine_status_pb2.EngineWork(
        steps=work.steps,
        row_steps=work.row_steps,
        adapter_steps=work.adapter_steps,
        stopped=work.stopped,
        cut=work.cut,
        cancelled=work.cancelled,
        settled=work.settled,
        images=work.images,
        images_seconds=work.images_s,
    )


def _work_from_proto(message: engine_status_pb2.EngineWork) -> EngineWork:
    return EngineWork(
        steps=message.steps,
        row_steps=message.row_steps,
        adapter_steps=message.adapter_steps,
        stopped=message.stopped,
        cut=message.cut,
        cancelled=message.cancelled,
        settled=message.settled,
        images=message.images,
        images_s=message.images_seconds,
    )
