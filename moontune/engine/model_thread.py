"""The one thread that runs the model: turn after turn, orders come in, rows step, answers go out.

    take in ──▶ drop who left ──▶ admit (Scheduler) ──▶ one piece of preparation ──▶ one step of every row ──▶ settle
       ▲                                                  (image, prompt; then join)                              │
       └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘

It starts with the first order and ends when there has been nothing to do for a while.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch

from moontune.engine.batch import Batch, Ended, Member
from moontune.engine.device_adapters import DeviceAdapters
from moontune.engine.entry import Entry, left_error
from moontune.engine.preparation import Preparation, Ready
from moontune.engine.scheduler import Longest, Scheduler
from moontune.engine.tally import Tally

LINGER_S = 0.25
"""How long the thread waits for the next order before it ends. Not a daemon, so that no process ends while it is inside
torch; short, so that none waits for it."""

SWITCH_S = 0.0002
"""Python's switch interval while an engine runs. The model thread lets go of the interpreter in every operation; at the
default of 5 ms, each caller's thread that has something to do would hold it up for that long."""

Answer = TypeVar("Answer")


class ModelThread:
    """Owns scheduler, preparation and batches; everything else reaches them through `submit` and `call`."""

    def __init__(
        self,
        scheduler: Scheduler[Entry],
        preparation: Preparation,
        adapters: DeviceAdapters,
        batch: Batch,
        alone: Batch,
    ) -> None:
        """Both batches are empty; `alone` is for orders that are decoded once more by themselves."""
        self.tally = Tally()
        self._scheduler, self._preparation, self._device = scheduler, preparation, adapters
        self._batch, self._alone = batch, alone
        self._entries: dict[Entry, None] = {}
        self._arrival = threading.Condition()
        self._inbox: deque[Entry | Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, entries: Sequence[Entry]) -> None:
        """Hand over entries that are fit to run; their `news` tell what becomes of them."""
        self._put(entries)

    def call(self, work: Callable[[], Answer]) -> Answer:
        """Run something on the thread, between two steps, and wait for it."""
        future: Future[Answer] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self._put([run])
        return future.result()

    def _put(self, items: Sequence[Entry | Callable[[], None]]) -> None:
        with self._arrival:
            self._inbox.extend(items)
            if self._thread is None:
                sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))
                self._thread = threading.Thread(target=self._run, name="engine model")
                self._thread.start()
            self._arrival.notify()

    @torch.inference_mode()
    def _run(self) -> None:
        while self._wait():
            self._turn()

    def _wait(self) -> bool:
        """Until there is something to do; False when the thread should end, because there was nothing for long."""
        if self._entries:
            return True
        with self._arrival:
            if not self._inbox and not self._arrival.wait_for(lambda: bool(self._inbox), LINGER_S):
                self._thread = None
                for batch in (self._batch, self._alone):
                    batch.kv.fit()
                return False
            return True

    def _turn(self) -> None:
        self._take_in()
        self._drop_left()
        for start in self._scheduler.admit():
            start.order.times.admitted = start.order.times.admitted or time.monotonic()
            self._preparation.add(start)
        if self._preparation:
            self._prepare()
        for batch in (self._batch, self._alone):
            if len(batch):
                self._step(batch)

    def _take_in(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, Entry):
                self._entries[item] = None
                if item.adapter is not None:
                    self._device.know(item.adapter)
                self._scheduler.submit(item, item.demand)
            else:
                item()

    def _drop_left(self) -> None:
        for entry in [entry for entry in self._entries if entry.left()]:
            self.tally.cancelled += 1
            self._give_up([entry], left_error())

    def _prepare(self) -> None:
        try:
            for ready in self._preparation.advance():
                self._join(ready)
        except Exception as error:  # whatever it is, the callers must hear of it, and the others go on
            self._give_up(self._preparation.fail(), error)

    def _join(self, ready: Ready) -> None:
        entry, start = ready.start.order, ready.start
        batch = self._alone if entry.alone else self._batch
        starts = entry.plan.starts[start.first : start.first + start.count]
        own_region = entry.adapter is not None and entry.adapter.adapts_region
        rollouts = range(start.first, start.first + start.count)
        members = [Member(entry, rollout, entry.digest, own_region) for rollout in rollouts]
        longest = self._scheduler.longest
        if entry.alone:  # in memory that is the same whatever runs or ran: another layout is another order of summing
            longest = Longest(entry.plan.room, entry.plan.length)
            for each in (self._batch, self._alone):
                each.kv.fit()
        batch.join(ready.prefix, starts, members, longest)

    def _step(self, batch: Batch) -> None:
        owners = batch.owners
        try:
            self.tally.count(batch)
            ended = batch.step()
        except Exception as error:  # as above
            self._give_up(list(owners), error)
            return
        now = time.monotonic()
        for entry in owners:
            entry.times.first_decision = entry.times.first_decision or now
            if entry.order.stream:
                entry.tell(batch.told(entry, entry.told))
        for each in ended:
            if each.member.owner.order.stream:
                each.member.owner.tell(each.record.since(each.member.owner.told))
            self._end(each)

    def _end(self, ended: Ended) -> None:
        """One rollout is done; its order is when all are, unless a close call of it must be settled."""
        entry = ended.member.owner
        entry.records[ended.member.rollout] = ended.record
        entry.close |= ended.close
        self._scheduler.finish(entry, 1)
        if any(record is None for record in entry.records):
            return
        if entry.close and not entry.alone and not entry.order.stream:
            self.tally.settled += 1
            entry.start_over()
            self._scheduler.submit(entry, entry.demand)
            return
        self.tally.finish(entry)
        del self._entries[entry]
        entry.finish()

    def _give_up(self, entries: Sequence[Entry], error: Exception) -> None:
        for entry in entries:
            self._preparation.drop(entry)
            for batch in (self._batch, self._alone):
                batch.drop(entry)
            self._scheduler.withdraw(entry)
            self._entries.pop(entry, None)
            entry.finish(error)
