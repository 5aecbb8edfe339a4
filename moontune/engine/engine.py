"""The engine: orders in, groups of rollouts out.

    generate ──▶ Scheduler ──▶ gather ──▶ encode new images ──▶ prefill each prefix once ──▶ Batch.run ──▶ outputs
                (any thread)   (one thread at a time runs the model; the others find their order done)

An order's result depends on its own request, seed, adapter and base alone, never on what shares its batch.
"""

import threading
import time
from collections.abc import Sequence

import numpy as np
import torch

from moontune.engine.adapters import AdapterSlots
from moontune.engine.batch import Batch
from moontune.engine.callers import Callers, gave_up
from moontune.engine.features import ImageFeatures
from moontune.engine.noise import Noise
from moontune.engine.order import AdapterRef, CallContext, Generation, GenerationOrder
from moontune.engine.plan import PlannedOrder, collect_images, plan_all
from moontune.engine.rows import Rows
from moontune.engine.scheduler import Entry, Scheduler
from moontune.engine.settings import EngineSettings
from moontune.model.answers import read_output
from moontune.model.base_model import BaseModel, share_base
from moontune.model.inputs import prefill
from moontune.values.adapter import AdapterState, AdapterStatus
from moontune.values.engine import EngineStatus
from moontune.values.inference import Usage
from moontune.values.model_ref import PolicyVersion
from moontune.values.rollout import Decision, FinishReason, Head, Rollout, RolloutGroup

SPARE_SLOTS = 32
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
        self._running = 0

    def generate(self, context: CallContext, order: GenerationOrder) -> Generation:
        """Answer one order, together with others that wait.

        Raises InvalidField (request, limits, image), ImageUnknown, CheckpointCorrupt (adapter files) or Cancelled.
        """
        return self.generate_all([(context, order)])[0]

    def generate_all(self, orders: Sequence[tuple[CallContext, GenerationOrder]]) -> list[Generation]:
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

    def load(self, _context: CallContext | None, adapter: AdapterRef, pinned: bool = False) -> None:
        """Make an adapter resident ahead of its first order, after the batch under way."""
        with self._turn:
            self._adapters.activate(adapter)
            if pinned:
                self._adapters.pin(adapter.digest)

    def unload(self, _context: CallContext | None, digest: str) -> bool:
        """Let go of an adapter, after the batch under way; False when it was not resident. A later order reloads it."""
        with self._turn:
            return self._adapters.unload(digest)

    def status(self, _context: CallContext | None = None) -> EngineStatus:
        """What is going on; never waits for the model."""
        resident, pinned = self._adapters.resident, self._adapters.pinned
        return EngineStatus(
            base=self._base.name,
            base_digest=self._base.digest,
            device=self._base.device,
            running=self._running,
            waiting=self._scheduler.sequences,
            max_batch=self.settings.max_sequences,
            caches=(self._features.status(), self._adapters.status()),
            adapters=tuple(
                AdapterStatus(
                    PolicyVersion(self._base.name, self._base.digest, adapter_digest=digest),
                    AdapterState.DEVICE,
                    size_bytes,
                    pinned=digest in pinned,
                )
                for digest, size_bytes in resident.items()
            ),
        )

    def _gather(self) -> list[Entry]:
        """Take the next batch, after a moment for orders that are just arriving."""
        with self._arrival:
            while self.settings.gather_s > 0 and self._scheduler.sequences < self.settings.max_sequences:
                if not self._arrival.wait(self.settings.gather_s):
                    break
            return self._scheduler.next_batch()

    def _run_batch(self, entries: Sequence[Entry]) -> None:
        """Answer these entries, which share an adapter; every one has an outcome afterwards."""
        wanted = [entry for entry in entries if not gave_up(entry)]
        self._running = sum(entry.order.num_rollouts for entry in wanted)
        try:
            if wanted:
                adapter = wanted[0].order.adapter
                self._adapters.activate(adapter)
                self._decode(wanted, self._adapters.vision_digest(adapter))
        except Exception as error:  # whatever it is, callers of all entries must hear of it, and the next batch runs
            for entry in wanted:
                entry.outcome = entry.outcome or error
        finally:
            self._running = 0

    @torch.inference_mode()
    def _decode(self, entries: Sequence[Entry], vision_adapter: str) -> None:
        """Run the entries with the adapter that acts now."""
        started = time.monotonic()
        orders, images = collect_images(plan_all(entries, self._base), self._features, vision_adapter)
        if not orders:
            return
        model = self._base.module
        shared = list(dict.fromkeys(order.prefix_key for order in orders))
        keys = shared if self.settings.share_prefixes else [o.prefix_key for o in orders for _ in range(o.count)]
        ready = prefill(
            model,
            [images.get(sha256) for sha256, _ in keys],
            [prompt for _, prompt in keys],
            capacity=max(order.length for order in orders) + SPARE_SLOTS,
        )
        fork = torch.arange(len(keys), device=model.device)
        if self.settings.share_prefixes:
            rows_of = {key: row for row, key in enumerate(keys)}
            forks = torch.tensor([rows_of[order.prefix_key] for order in orders], device=model.device)
            fork = forks.repeat_interleave(torch.tensor([order.count for order in orders], device=model.device))
        batch = Batch(
            model,
            Rows([order.row_start() for order in orders for _ in range(order.count)]),
            [order.settings for order in orders for _ in range(order.count)],
            Noise([seed for order in orders for seed in order.seeds()], model.device),
            ready.cache.select(fork),
            ready.hidden_BD[fork],
        )
        prefilled = time.monotonic()
        batch.run(Callers(orders).abandoned)
        if len(orders) > 1:
            self._settle_close_calls(orders, batch, vision_adapter)
        self._answer(orders, batch, started, prefilled)

    def _settle_close_calls(self, orders: Sequence[PlannedOrder], batch: Batch, vision_adapter: str) -> None:
        """Decode orders with a close greedy choice once more, each alone, so that their batch has no say in it."""
        firsts = np.cumsum([0, *(order.count for order in orders[:-1])])
        for first, planned in zip(firsts, orders, strict=True):
            if batch.close[first : first + planned.count].any() and not gave_up(planned.entry):
                self._decode([planned.entry], vision_adapter)

    def _answer(self, orders: Sequence[PlannedOrder], batch: Batch, started: float, prefilled: float) -> None:
        """Turn the batch's record into each order's answer."""
        decided = iter(zip(batch.trace.decisions(), batch.stopped.tolist(), strict=True))
        ended = time.monotonic()
        for planned in orders:
            entry = planned.entry
            rollouts = tuple(self._rollout(planned, seed, *next(decided)) for seed in planned.seeds())
            if entry.outcome is None and not gave_up(entry):
                usage = Usage(
                    input_tokens=planned.length,
                    output_tokens=sum(len(rollout.decisions) for rollout in rollouts),
                    queue_s=started - entry.queued,
                    prefill_s=prefilled - started,
                    decode_s=ended - prefilled,
                )
                entry.outcome = Generation(RolloutGroup(entry.order.request, rollouts), usage)

    def _rollout(self, planned: PlannedOrder, seed: int, decisions: list[Decision], stopped: bool) -> Rollout:
        order, config, thinking = planned.entry.order, self._base.config, 0
        if planned.thinks:
            thinking = _thinking_count(decisions, config.tokenizer.answer_id)
        return Rollout(
            skill=order.request.skill,
            output=read_output(
                order.request.skill,
                decisions,
                config,
                self._base.tokenizer,
                reasoning=planned.thinks,
                thinking_count=thinking,
            ),
            decisions=tuple(decisions),
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            policy=order.policy,
            seed=seed,
            temperature=planned.settings.temperature,
            top_p=planned.settings.top_p,
            thinking_count=thinking,
        )


def _thinking_count(decisions: Sequence[Decision], answer_id: int) -> int:
    """How many decisions come before the separator; all of them when none was reached."""
    ends = (i for i, each in enumerate(decisions) if each.head is Head.TOKEN and each.choice == answer_id)
    return next(ends, len(decisions))
