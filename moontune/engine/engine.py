"""The engine: orders in, groups of rollouts out.

    caller's thread:  check ──▶ plan, adapter (host), image ──▶ submit ──▶ wait, stream pieces ──▶ read the answer
    model thread:               take in ──▶ admit ──▶ prefill ──▶ step, step, step ... ──▶ settle

An order's result depends on its own request, seed, adapter and base alone, never on what shares its batch.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from moontune.engine.answer import rollout_of, stream_pieces, usage_of
from moontune.engine.batch import Batch
from moontune.engine.device_adapters import DeviceAdapters
from moontune.engine.entry import Entry
from moontune.engine.features import ImageFeatures
from moontune.engine.host_adapters import HostAdapter, HostAdapters
from moontune.engine.kv_block import position_bytes
from moontune.engine.model_thread import ModelThread
from moontune.engine.order import AdapterRef, CallContext, Generation, GenerationOrder
from moontune.engine.plan import make_plan
from moontune.engine.prefixes import Prefixes
from moontune.engine.preparation import Preparation
from moontune.engine.scheduler import Limits, Scheduler
from moontune.engine.settings import EngineSettings
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora_layers import adaptable_layers
from moontune.values.adapter import AdapterState, AdapterStatus
from moontune.values.engine import EngineStatus
from moontune.values.model_ref import PolicyVersion
from moontune.values.rollout import RolloutGroup


class Engine:
    """Generates with one base and any of its adapters. `generate` may be called from many threads at once.

    worker_threads, immediate: how a model worker runs it (`moontune.serving.worker_protocol.Component`): each order
    waits on a thread of its own.
    """

    worker_threads = 256
    immediate = frozenset({"status"})

    def __init__(self, base: BaseModel, settings: EngineSettings | None = None) -> None:
        """Takes a module tree of its own over the base's parameters, so a learner beside it is not disturbed."""
        self.settings = settings = settings or EngineSettings()
        self._base = base = share_base(base)
        module = base.module
        each_bytes = position_bytes(base.config.text, module.dtype)
        self._limits = Limits(settings.max_sequences, settings.kv_bytes, each_bytes, settings.share_prefixes)
        self._host = HostAdapters(base.config, settings.adapter_host_bytes)
        self._device = DeviceAdapters(module, tuple(adaptable_layers(base.config)), settings.adapter_cache_bytes)
        self._features = ImageFeatures(base, self._device, settings.image_cache_bytes, settings.image_limits)
        self._prefixes = Prefixes(base, self._device, settings.prefix_cache_bytes, settings.prefill_positions)
        self._scheduler = Scheduler[Entry](self._limits, self._device)
        preparation = Preparation(self._features, self._prefixes, share=settings.share_prefixes)
        batches = [Batch(module, self._device, settings.kv_bytes // 2) for _ in range(2)]
        self._model = ModelThread(self._scheduler, preparation, self._device, *batches)
        self._batches = batches

    def generate(self, context: CallContext, order: GenerationOrder) -> Generation:
        """Answer one order, together with all others that run; a streamed one also in pieces (`context.emit`).

        Raises InvalidField (request, limits, image, adapter), ImageUnknown, CheckpointCorrupt (adapter files) or
        Cancelled.
        """
        return self.generate_all([(context, order)])[0]

    def stream(self, context: CallContext, order: GenerationOrder) -> None:
        """Answer an order of one rollout in pieces, as they are decided; the last thing emitted is the Generation.

        Raises what `generate` raises.
        """
        context.emit(self.generate(context, replace(order, stream=True)))

    def generate_all(self, orders: Sequence[tuple[CallContext, GenerationOrder]]) -> list[Generation]:
        """Answer several orders, admitted together; raises the first error among them, once all have ended."""
        with ExitStack() as stack:
            entries = [stack.enter_context(self._entry(context, order)) for context, order in orders]
            self._model.submit(entries)
            for entry in entries:
                stream_pieces(entry, self._base)
            for entry in entries:
                if entry.error is not None:
                    raise entry.error
            return [self._answer(entry) for entry in entries]

    def load(self, context: CallContext, adapter: AdapterRef, pinned: bool = False) -> None:
        """Make an adapter resident ahead of its first order, on the device too where there is room now.

        Nothing that runs waits for it. pinned: keep it in both until it is unloaded. Raises what `generate` raises of
        an adapter.
        """
        with self._adapter(context, adapter) as (held, size_bytes):
            self._model.call(lambda: self._device.load(held, size_bytes, pinned=pinned))
            if pinned:
                self._host.pin(held.digest)

    def unload(self, context: CallContext, digest: str) -> bool:
        """Let go of an adapter once the orders that use it have ended; False when it was not resident.

        An order that comes meanwhile waits, and loads it anew. Raises Cancelled when the caller leaves before.
        """
        return self._host.drain(
            digest, context.cancelled, lambda: self._model.call(lambda: self._device.remove(digest))
        )

    def status(self, _context: CallContext | None = None) -> EngineStatus:
        """What is going on; never waits for the model."""
        return EngineStatus(
            base=self._base.name,
            base_digest=self._base.digest,
            device=self._base.device,
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            max_batch=self.settings.max_sequences,
            kv_bytes=sum(batch.kv.nbytes for batch in self._batches),
            kv_budget_bytes=self.settings.kv_bytes,
            caches=(self._features.status(), self._device.status(), self._host.status(), self._prefixes.status()),
            adapters=tuple(self._adapter_statuses()),
            work=replace(self._model.tally.work(), images=self._features.images, images_s=self._features.images_s),
        )

    @contextmanager
    def _entry(self, context: CallContext, order: GenerationOrder) -> Generator[Entry]:
        """What the model needs of an order; its adapter stays in the host's memory for the length of the block."""
        order.validate()
        plan = make_plan(order, self._base)
        with ExitStack() as stack:
            adapter, size_bytes = None, 0
            if order.adapter is not None:
                adapter, size_bytes = stack.enter_context(self._adapter(context, order.adapter))
            entry = Entry(order, context, plan, adapter, size_bytes)
            self._limits.check(entry.demand, f"{order.field}.settings.max_tokens")
            if order.request.image is not None:
                entry.image = self._features.find(order.request.image, entry.vision_digest, order.image_field)
            yield entry

    @contextmanager
    def _adapter(self, context: CallContext, ref: AdapterRef) -> Generator[tuple[HostAdapter, int]]:
        """An adapter in the host's memory, and its bytes on the device."""
        adapter = self._host.take(ref, context.cancelled)
        try:
            yield adapter, self._device.size_bytes(adapter)
        finally:
            self._host.give_back(ref.digest)

    def _answer(self, entry: Entry) -> Generation:
        rollouts = tuple(rollout_of(entry, index, self._base) for index in range(entry.order.num_rollouts))
        return Generation(RolloutGroup(entry.order.request, rollouts), usage_of(entry, rollouts))

    def _adapter_statuses(self) -> Iterator[AdapterStatus]:
        host, device = self._host.resident, self._device.resident
        for digest in dict.fromkeys((*host, *device)):
            state = AdapterState.DEVICE if digest in device else AdapterState.HOST
            yield AdapterStatus(
                PolicyVersion(self._base.name, self._base.digest, adapter_digest=digest),
                AdapterState.DRAINING if digest in self._host.draining else state,
                device.get(digest, host.get(digest, 0)),
                pinned=digest in self._host.pinned,
                active_requests=self._host.users(digest),
            )
