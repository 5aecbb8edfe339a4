"""Which waiting orders run next. Pure Python: no model, no tensors.

    submit ──▶ waiting ──▶ next_batch ──▶ running ──▶ finished
               (oldest first)   │
                                └─ the oldest order leads; later ones with the same adapter join while sequences fit

The oldest order always leads the next batch, so no adapter starves, however busy another one is.
"""

import time
from collections import deque
from dataclasses import dataclass, field

from moontune.engine.order import CallContext, Generation, GenerationOrder


@dataclass(slots=True, eq=False)
class Entry:
    """An order on its way. outcome: None until it has been answered. queued: when, on the monotonic clock."""

    order: GenerationOrder
    context: CallContext
    outcome: Generation | Exception | None = None
    queued: float = field(default_factory=time.monotonic)

    @property
    def adapter_digest(self) -> str:
        """Digest of the adapter it runs with; "" for the base."""
        return "" if self.order.adapter is None else self.order.adapter.digest

    def result(self) -> Generation:
        """The answer; raises the error instead where there is one."""
        assert self.outcome is not None, "the entry has not run"
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Scheduler:
    """The queue of waiting entries. Not thread-safe: the engine holds a lock around it."""

    def __init__(self, max_sequences: int) -> None:
        """`max_sequences` rollouts at most in one batch; a larger single order runs alone."""
        self.max_sequences = max_sequences
        self._waiting: deque[Entry] = deque()

    @property
    def sequences(self) -> int:
        """Rollouts that wait."""
        return sum(entry.order.num_rollouts for entry in tuple(self._waiting))

    def submit(self, entry: Entry) -> None:
        """Queue an entry behind all others."""
        self._waiting.append(entry)

    def next_batch(self) -> list[Entry]:
        """Take the oldest entry and all later ones that may share its batch; empty when nothing waits."""
        if not self._waiting:
            return []
        lead = self._waiting.popleft()
        batch, sequences, left = [lead], lead.order.num_rollouts, deque[Entry]()
        for entry in self._waiting:
            fits = sequences + entry.order.num_rollouts <= self.max_sequences
            if fits and entry.adapter_digest == lead.adapter_digest:
                batch.append(entry)
                sequences += entry.order.num_rollouts
            else:
                left.append(entry)
        self._waiting = left
        return batch
