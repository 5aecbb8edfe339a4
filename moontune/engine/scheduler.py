"""Who runs next. Pure Python: no model, no tensors.

    submit ──▶ waiting ──────▶ admit ──────▶ running ──▶ finish
               (oldest first)    │
                                 ├─ rows: at most `max_sequences` at once; an order may start a few rollouts at a time
                                 ├─ keys and values: rows x the longest row's positions fit the budget
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
    """What an order needs. positions: of each rollout at most, its prompt included. adapter: "" for the base."""

    sequences: int
    positions: int
    adapter: str = ""
    adapter_bytes: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """position_bytes: keys and values of one position in all layers."""

    max_sequences: int
    kv_bytes: int
    position_bytes: int

    def row_positions(self, positions: int) -> int:
        """Positions that a row of the pool has when its rollouts need so many."""
        return -(-positions // ROUND_POSITIONS) * ROUND_POSITIONS

    def kv_needed(self, rows: int, positions: int) -> int:
        """Bytes of so many rows, each with room for the longest one's positions."""
        return rows * self.row_positions(positions) * self.position_bytes

    def check(self, positions: int, field: str) -> None:
        """Raise InvalidField when one row of so many positions could never fit, with the figures."""
        if self.kv_needed(1, positions) > self.kv_bytes:
            most = self.kv_bytes // (self.position_bytes * ROUND_POSITIONS) * ROUND_POSITIONS
            given = f"{positions} positions of {self.position_bytes} bytes"
            raise InvalidField.of(field, given, f"at most {most} positions in the engine's {self.kv_bytes} bytes")


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
        self._positions: Counter[int] = Counter()

    @property
    def waiting(self) -> int:
        """Rollouts that wait."""
        return sum(place.left for place in tuple(self._waiting))

    @property
    def running(self) -> int:
        """Rollouts that run."""
        return sum(self._positions.values())

    @property
    def longest(self) -> int:
        """Positions of the longest running row."""
        return max(self._positions, default=0)

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
            if place.left and head is None:
                head = place
            if self.running >= self.limits.max_sequences or (head is not None and head.overtaken >= PATIENCE):
                break
        self._waiting = deque(place for place in self._waiting if place.left)
        return starts

    def finish(self, order: Order, count: int) -> None:
        """So many running rollouts of an order have ended."""
        place = self._running[id(order)]
        place.running -= count
        self._positions[place.demand.positions] -= count
        self._positions += Counter[int]()  # forgets zeros
        if not place.running and not place.left:
            self._leave(place)

    def withdraw(self, order: Order) -> None:
        """An order's caller has left: what has not started never will, what runs is finished."""
        self._waiting = deque(place for place in self._waiting if place.order is not order)
        place = self._running.get(id(order))
        if place is not None:
            place.started = place.demand.sequences
            self._positions[place.demand.positions] -= place.running
            self._positions += Counter[int]()
            self._leave(place)

    def _room(self, place: _Place[Order]) -> int:
        """How many of its rollouts rows and memory allow now."""
        positions = max(self.longest, place.demand.positions)
        most = min(self.limits.max_sequences, self.limits.kv_bytes // max(1, self.limits.kv_needed(1, positions)))
        return min(place.left, most - self.running)

    def _enter(self, place: _Place[Order], count: int) -> bool:
        demand = place.demand
        if id(place.order) not in self._running:
            if demand.adapter and not self._adapters.reserve(demand.adapter, demand.adapter_bytes):
                return False
            self._running[id(place.order)] = place
        place.started += count
        place.running += count
        self._positions[demand.positions] += count
        return True

    def _leave(self, place: _Place[Order]) -> None:
        del self._running[id(place.order)]
        if place.demand.adapter:
            self._adapters.release(place.demand.adapter)
