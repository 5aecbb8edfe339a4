"""Adapters in this process: load ahead of the first request, unload, tell where one is."""

from typing import Any, Protocol

from moontune.values.adapter import AdapterState, AdapterStatus
from moontune.values.engine import EngineStatus
from moontune.values.model_ref import PolicyVersion
from services.inference.models import Models, require_finetune


class Worker(Protocol):
    """The part of the model worker that is needed."""

    async def call(self, component: str, method: str, *args: object) -> Any:
        """Run a component's method."""
        ...


class ProcessAdapters:
    """What LoadAdapter, UnloadAdapter and GetAdapterStatus do."""

    def __init__(self, worker: Worker, models: Models) -> None:
        """Both are the process's own."""
        self._worker, self._models = worker, models

    async def load(self, model: str, organisation: str, *, pinned: bool) -> AdapterStatus:
        """Make the adapter resident; repeating it changes nothing. Raises what resolving a model string raises."""
        require_finetune(await self._models.manifest(model, organisation, "model"), model, "model")
        async with self._models.lend(model, organisation, "model") as (policy, adapter):
            assert adapter is not None
            await self._worker.call("engine", "load", adapter, pinned)
        return await self._status(policy)

    async def unload(self, model: str, organisation: str) -> AdapterStatus:
        """Let go of the adapter once the batch under way has ended; one that is not resident is no error."""
        policy = await self._policy(model, organisation)
        await self._worker.call("engine", "unload", policy.adapter_digest)
        return await self._status(policy)

    async def status(self, model: str, organisation: str) -> AdapterStatus:
        """Where the adapter is."""
        return await self._status(await self._policy(model, organisation))

    async def _policy(self, model: str, organisation: str) -> PolicyVersion:
        manifest = await self._models.manifest(model, organisation, "model")
        return self._models.policy(require_finetune(manifest, model, "model"))

    async def _status(self, policy: PolicyVersion) -> AdapterStatus:
        engine: EngineStatus = await self._worker.call("engine", "status")
        for adapter in engine.adapters:
            if adapter.policy.adapter_digest == policy.adapter_digest:
                return AdapterStatus(policy, adapter.state, adapter.size_bytes, adapter.pinned)
        return AdapterStatus(policy, AdapterState.ABSENT)
