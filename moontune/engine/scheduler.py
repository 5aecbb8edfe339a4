"""Who runs next. Pure Python: no model, no tensors.

    submit ──▶ waiting ──────▶ admit ──────▶ running ──▶ finish
               (oldest first)    │
                                 ├─ rows: at most `max_sequences` at once; an order may start a few rollouts at a time
                                 ├─ keys and values: a row for each rollout and one for each order's prefix, all of
                                 │  them as long as the longest, fit the budget
                                 └─ adapter: resident, or room for it beside those in use

The oldest order that still waits is the head. While memory or adapters hold the head up, younger orders that do fit may
go first, but at most PATIENCE rollouts of them: then nobody starts before the head does. Running rollouts end after a
bounded number of steps, so every order starts after a bounded number of steps too.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from moontune.errors import InvalidField

PATIENCE = 64
"""Rollouts that may overtake a head that is held up."""

ROUND_POSITIONS = 64
"""Rows are as long as a multiple of this, so that rows of about one length share one shape."""

Order = TypeVar("Order")


@dataclass(frozen=True, slots=True)
class Demand:
    """What an order needs. room: positions of each rollout at most. prefix: of its prompt. adapter: "" for the base."""

    sequences: int
    room: int
    prefix: int = 0
    adapter: str = ""
    adapter_bytes: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Longest:
    """Positions that rows of rollouts, and of prefixes, have room for: the longest one's, rounded up."""

    room: int = 0
    prefix: int = 0

    def beside(self, demand: Demand) -> "Longest":
        """The longest when this demand's rollouts run as well."""
        return Longest(max(self.room, _rounded(demand.room)), max(self.prefix, _rounded(demand.prefix)))


@dataclass(frozen=True, slots=True)
class Limits:
    """position_bytes: keys and values of one position in all layers. shared: rollouts of an order share a prefix."""

    max_sequences: int
    kv_bytes: int
    position_bytes: int
    shared: bool = True

    def kv_needed(self, rows: int, prefixes: int, longest: Longest) -> int:
        """Bytes of so many rollouts behind so many prefixes."""
        prefixes = prefixes if self.shared else rows
        return (rows * longest.room + prefixes * longest.prefix) * self.position_bytes

    def most_rows(self, prefixes: int, longest: Longest) -> int:
        """How many rollouts may run behind so many prefixes."""
        positions = self.kv_bytes // self.position_bytes
        if self.shared:
            rows = (positions - prefixes * longest.prefix) // max(1, longest.room)
        else:
            rows = positions // max(1, longest.room + longest.prefix)
        return max(0, min(self.max_sequences, rows))

    def check(self, demand: Demand, field: str) -> None:
        """Raise InvalidField when one rollout of a demand could never fit, with the figures."""
        if self.most_rows(1, Longest().beside(demand)) < 1:
            most = self.kv_bytes // self.position_bytes - _rounded(demand.prefix)
            given = f"{demand.room} positions of {self.position_bytes} bytes behind a prompt of {demand.prefix}"
            allowed = (
                f"at most {max(0, most // ROUND_POSITIONS * ROUND_POSITIONS)} in the engine's {self.kv_bytes} bytes"
            )
            raise InvalidField.of(field, given, allowed)


def _rounded(positions: int) -> int:
    return -(-positions // ROUND_POSITIONS) * ROUND_POSITIONS


class AdapterRoom(Protocol):
    """The memory in which adapters act."""

    def reserve(self, digest: str, size_bytes: int) -> bool:
        """Keep the adapter's place from now on; False when those in use leave none."""
        ...

    def release(self, digest: str) -> None:
        """Give one reservation back."""
        ...


@dataclass(frozen=True, slots=True)
class Start(Generic[Order]):
    """Rollouts `first` to `first + count - 1` of an order may run."""

    order: Order
    first: int
    count: int


@dataclass(slots=True, eq=False)
class _Place(Generic[Order]):
    """Where an order stands: rollouts started, running and in all."""

    order: Order
    demand: Demand
    started: int = 0
    running: int = 0
    overtaken: int = 0

    @property
    def left(self) -> int:
        return self.demand.sequences - self.started


class Scheduler(Generic[Order]):
    """The waiting line and the count of what runs. Not thread-safe: the model thread alone uses it."""

    def __init__(self, limits: Limits, adapters: AdapterRoom) -> None:
        """`adapters` is asked for each order's adapter before its first rollout starts."""
        self.limits = limits
        self._adapters = adapters
        self._waiting: deque[_Place[Order]] = deque()
        self._running: dict[int, _Place[Order]] = {}
        self._shapes: Counter[tuple[int, int]] = Counter()

    @property
    def waiting(self) -> int:
        """Rollouts that wait."""
        return sum(place.left for place in tuple(self._waiting))

    @property
    def running(self) -> int:
        """Rollouts that run."""
        return sum(self._shapes.values())

    @property
    def longest(self) -> Longest:
        """What the rows of those that run have room for."""
        rooms, prefixes = zip(*self._shapes, strict=True) if self._shapes else ((0,), (0,))
        return Longest(_rounded(max(rooms)), _rounded(max(prefixes)))

    @property
    def kv_needed(self) -> int:
        """Bytes of keys and values that what runs may come to need."""
        return self.limits.kv_needed(self.running, len(self._running), self.longest)

    def submit(self, order: Order, demand: Demand) -> None:
        """Queue an order behind all others; one to be run alone goes before all."""
        (self._waiting.appendleft if demand.alone else self._waiting.append)(_Place(order, demand))

    def admit(self) -> list[Start[Order]]:
        """Start what fits now."""
        starts: list[Start[Order]] = []
        head: _Place[Order] | None = None
        for place in tuple(self._waiting):
            count = self._room(place)
            if head is not None:
                count = min(count, PATIENCE - head.overtaken)
            if count > 0 and self._enter(place, count):
                starts.append(Start(place.order, place.started - count, count))
                if head is not None:
                    head.overtaken += count
            if place.left and head is None and not place.demand.alone:
                head = place
            if self.running >= self.limits.max_sequences or (head is not None and head.overtaken >= PATIENCE):
                break
        self._waiting = deque(place for place in self._waiting if place.left)
        return starts

    def finish(self, order: Order, count: int) -> None:
        """So many running rollouts of an order have ended."""
        place = self._running[id(order)]
        place.running -= count
        self._shapes[place.demand.room, place.demand.prefix] -= count
        self._shapes += Counter[tuple[int, int]]()  # forgets zeros
        if not place.running and not place.left:
            self._leave(place)

    def withdraw(self, order: Order) -> None:
        """An order's caller has left: what has not started never will, what runs is finished."""
        self._waiting = deque(place for place in self._waiting if place.order is not order)
        place = self._running.get(id(order))
        if place is not None:
            place.started = place.demand.sequences
            self._shapes[place.demand.room, place.demand.prefix] -= place.running
            self._shapes += Counter[tuple[int, int]]()
            self._leave(place)

    def _room(self, place: _Place[Order]) -> int:
        """How many of its rollouts rows and memory allow now; of those to be run alone, one order at a time."""
        if place.demand.alone and any(each.demand.alone and each is not place for each in self._running.values()):
            return 0
        prefixes = len(self._running) + (id(place.order) not in self._running)
        return min(place.left, self.limits.most_rows(prefixes, self.longest.beside(place.demand)) - self.running)

    def _enter(self, place: _Place[Order], count: int) -> bool:
        demand = place.demand
        if id(place.order) not in self._running:
            if demand.adapter and not self._adapters.reserve(demand.adapter, demand.adapter_bytes):
                return False
            self._running[id(place.order)] = place
        place.started += count
        place.running += count
        self._shapes[demand.room, demand.prefix] += count
        return True

    def _leave(self, place: _Place[Order]) -> None:
        del self._running[id(place.order)]
        if place.demand.adapter:
            self._adapters.release(place.demand.adapter)
