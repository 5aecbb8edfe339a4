"""Who still waits for a batch's sequences."""

from collections.abc import Sequence

from moontune.engine.plan import PlannedOrder
from moontune.engine.scheduler import Entry
from moontune.errors import Cancelled


def gave_up(entry: Entry) -> bool:
    """Whether the entry's caller has left; it is answered with Cancelled then."""
    if entry.outcome is None and entry.context.cancelled():
        entry.outcome = Cancelled("the caller left, or its deadline passed, before the generation ended")
    return isinstance(entry.outcome, Cancelled)


class Callers:
    """The callers of a running batch, polled at every decode step."""

    def __init__(self, orders: Sequence[PlannedOrder]) -> None:
        """Sequences are numbered in the order of the rollouts of `orders`."""
        self._waiting: list[tuple[Entry, range]] = []
        first = 0
        for order in orders:
            self._waiting.append((order.entry, range(first, first + order.count)))
            first += order.count

    def abandoned(self) -> list[int]:
        """Sequences whose caller has left since the last call."""
        gone = [(entry, span) for entry, span in self._waiting if gave_up(entry)]
        if gone:
            self._waiting = [(entry, span) for entry, span in self._waiting if entry.outcome is None]
        return [sequence for _, span in gone for sequence in span]
