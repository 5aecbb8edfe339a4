"""The engine: orders in, groups of rollouts out.

    generate ──▶ Scheduler ──▶ gather ──▶ encode new images ──▶ prefill each prefix once ──▶ Batch.run ──▶ outputs
                (any thread)   (one thread at a time runs the model; the others find their order done)

An order's result depends on its own request, seed, adapter and base alone, never on what shares its batch.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace

import torch

from moontune.engine.adapters import AdapterSlots
from moontune.engine.batch import Batch
from moontune.engine.features import ImageFeatures
from moontune.engine.noise import Noise
from moontune.engine.order import CallContext, GenerationOrder
from moontune.engine.outputs import read_output, thinking_count
from moontune.engine.plan import PlannedOrder, collect_images, plan_all
from moontune.engine.rows import Rows
from moontune.engine.scheduler import Entry, Scheduler
from moontune.engine.settings import CacheStatus, EngineSettings, EngineStatus, EngineTotals
from moontune.errors import Cancelled
from moontune.model.base_model import BaseModel, share_base
from moontune.model.inputs import prefill
from moontune.values.rollout import Decision, FinishReason, Rollout, RolloutGroup

SPARE_SLOTS = 64
"""Room for decoding that a cache has from the start; it doubles when a batch needs more."""


class Engine:
    """Generates with one base and any of its adapters. `generate` may be called from many threads at once.

    worker_threads, immediate: how a model worker runs it (`moontune.serving.worker_protocol.Component`): calls wait
    on threads of their own, so that orders of several callers meet in one batch.
    """

    worker_threads = 64
    immediate = frozenset({"status"})

    def __init__(self, base: BaseModel, settings: EngineSettings | None = None) -> None:
        """Takes a module tree of its own over the base's parameters, so a learner beside it is not disturbed."""
        self.settings = settings or EngineSettings()
        self._base = share_base(base)
        self._features = ImageFeatures(self._base, self.settings.image_cache_bytes, self.settings.image_limits)
        self._adapters = AdapterSlots(self._base.module, self.settings.adapter_cache_bytes)
        self._scheduler = Scheduler(self.settings.max_sequences)
        self._arrival = threading.Condition()
        self._turn = threading.Lock()
        self._totals = EngineTotals()

    def generate(self, context: CallContext, order: GenerationOrder) -> RolloutGroup:
        """Answer one order, together with others that wait.

        Raises InvalidField (request, limits, image), ImageUnknown, CheckpointCorrupt (adapter files) or Cancelled.
        """
        return self.generate_all([(context, order)])[0]

    def generate_all(self, orders: Sequence[tuple[CallContext, GenerationOrder]]) -> list[RolloutGroup]:
        """Answer several orders, as one batch where their adapter is the same; raises the first error among them."""
        for _, order in orders:
            order.validate()
        entries = [Entry(order, context) for context, order in orders]
        with self._arrival:
            for entry in entries:
                self._scheduler.submit(entry)
            self._arrival.notify()
        with self._turn:
            while any(entry.outcome is None for entry in entries):
                self._run_batch(self._gather())
        return [entry.result() for entry in entries]

    def status(self, _context: CallContext | None = None) -> EngineStatus:
        """What is going on; never waits for the model."""
        images = self._features.cache
        return EngineStatus(
            base=self._base.name,
            base_digest=self._base.digest,
            waiting=len(self._scheduler),
            totals=self._totals,
            images=CacheStatus(
                len(images), images.resident_bytes, images.budget_bytes, images.hits, images.misses, images.evictions
            ),
            adapter_cache=self._adapters.status(),
            adapters=self._adapters.digests,
        )

    def _gather(self) -> list[Entry]:
        """Take the next batch, after a moment for orders that are just arriving."""
        with self._arrival:
            while self.settings.gather_s > 0 and self._scheduler.has_room():
                if not self._arrival.wait(self.settings.gather_s):
                    break
            return self._scheduler.next_batch()

    def _run_batch(self, entries: Sequence[Entry]) -> None:
        """Answer these entries, which share an adapter; every one has an outcome afterwards."""
        before = self._totals
        wanted = [entry for entry in entries if not _gave_up(entry)]
        sequences = sum(entry.order.num_rollouts for entry in wanted)
        self._totals = replace(before, running=len(wanted), running_sequences=sequences)
        steps = 0
        try:
            if wanted:
                adapter = wanted[0].order.adapter
                self._adapters.activate(adapter)
                steps = self._decode(wanted, self._adapters.vision_digest(adapter))
        except Exception as error:  # whatever it is, callers of all entries must hear of it, and the next batch runs
            for entry in wanted:
                entry.outcome = entry.outcome or error
        self._totals = _count(before, entries, steps)

    @torch.inference_mode()
    def _decode(self, entries: Sequence[Entry], vision_adapter: str) -> int:
        """Run the entries with the adapter that acts now; returns the decode steps taken."""
        orders, images = collect_images(plan_all(entries, self._base), self._features, vision_adapter)
        if not orders:
            return 0
        keys = list(dict.fromkeys(order.prefix_key for order in orders))
        ready = prefill(
            self._base.module,
            [images.get(sha256) for sha256, _ in keys],
            [prompt for _, prompt in keys],
            capacity=max(order.length for order in orders) + SPARE_SLOTS,
        )
        rows_of = {key: row for row, key in enumerate(keys)}
        fork = [rows_of[order.prefix_key] for order in orders for _ in range(order.count)]
        index = torch.tensor(fork, device=self._base.module.device)
        batch = Batch(
            self._base.module,
            Rows([order.row_start() for order in orders for _ in range(order.count)]),
            [order.settings for order in orders for _ in range(order.count)],
            Noise([seed for order in orders for seed in order.seeds()], self._base.module.device),
            ready.cache.select(index),
            ready.hidden_BD[index],
        )
        callers = Callers(orders)
        batch.run(callers.abandoned)
        self._answer(orders, batch)
        return batch.steps

    def _answer(self, orders: Sequence[PlannedOrder], batch: Batch) -> None:
        """Turn the batch's record into each order's group."""
        decided = iter(zip(batch.trace.decisions(), batch.stopped.tolist(), strict=True))
        for planned in orders:
            entry, request = planned.entry, planned.entry.order.request
            rollouts = tuple(self._rollout(planned, seed, *next(decided)) for seed in planned.seeds())
            if not _gave_up(entry):
                entry.outcome = RolloutGroup(request, rollouts)

    def _rollout(self, planned: PlannedOrder, seed: int, decisions: list[Decision], stopped: bool) -> Rollout:
        order, config = planned.entry.order, self._base.config
        return Rollout(
            skill=order.request.skill,
            output=read_output(order.request, decisions, config, self._base.tokenizer),
            decisions=tuple(decisions),
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            policy=order.policy,
            seed=seed,
            temperature=planned.settings.temperature,
            top_p=planned.settings.top_p,
            thinking_count=thinking_count(order.request, decisions, config),
        )


class Callers:
    """Which sequences of a batch have lost their caller; each is named once."""

    def __init__(self, orders: Sequence[PlannedOrder]) -> None:
        """Sequences are numbered in the order of the rollouts of `orders`."""
        self._waiting: list[tuple[Entry, range]] = []
        first = 0
        for order in orders:
            self._waiting.append((order.entry, range(first, first + order.count)))
            first += order.count

    def abandoned(self) -> list[int]:
        """Sequences abandoned since the last call."""
        gone = [(entry, span) for entry, span in self._waiting if _gave_up(entry)]
        if gone:
            self._waiting = [(entry, span) for entry, span in self._waiting if entry.outcome is None]
        return [sequence for _, span in gone for sequence in span]


def _gave_up(entry: Entry) -> bool:
    """Whether the entry's caller has left; it is answered with Cancelled then."""
    if entry.outcome is None and entry.context.cancelled():
        entry.outcome = Cancelled("the caller left, or its deadline passed, before the generation ended")
    return isinstance(entry.outcome, Cancelled)


def _count(before: EngineTotals, entries: Sequence[Entry], steps: int) -> EngineTotals:
    groups = [entry.outcome for entry in entries if isinstance(entry.outcome, RolloutGroup)]
    return replace(
        before,
        orders=before.orders + len(groups),
        sequences=before.sequences + sum(len(group.rollouts) for group in groups),
        decisions=before.decisions + sum(len(rollout.decisions) for group in groups for rollout in group.rollouts),
        steps=before.steps + steps,
        batches=before.batches + 1,
        cancelled=before.cancelled + sum(isinstance(entry.outcome, Cancelled) for entry in entries),
    )
