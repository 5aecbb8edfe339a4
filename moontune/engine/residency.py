"""Who may stay in a memory with a budget: least recently used first out, but nobody in use and nobody pinned."""

from collections import Counter, OrderedDict
from collections.abc import Mapping


class Residency:
    """Book-keeping by digest; the memory itself is the owner's. Pure Python, not thread-safe.

    hits, misses: of `reserve`, when it found room. evictions: of those that left for another's sake.
    """

    def __init__(self, budget_bytes: int) -> None:
        """`budget_bytes` is never exceeded: `reserve` answers None instead."""
        self.budget_bytes = budget_bytes
        self.hits = self.misses = self.evictions = 0
        self._bytes: OrderedDict[str, int] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._pinned: set[str] = set()

    def __contains__(self, digest: str) -> bool:
        return digest in self._bytes

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes by digest, least recently used first."""
        return dict(self._bytes)

    @property
    def resident_bytes(self) -> int:
        """Of all that are resident."""
        return sum(self._bytes.values())

    @property
    def pinned(self) -> frozenset[str]:
        """Resident digests that leave only when they are told to."""
        return frozenset(self._pinned)

    def users(self, digest: str) -> int:
        """How many reservations are open."""
        return self._users[digest]

    def reserve(self, digest: str, size_bytes: int) -> list[str] | None:
        """Open one reservation, bringing the digest in where it is not resident.

        Returns who was evicted for it, or None, with nothing changed, when those in use leave no room now.
        """
        if digest in self._bytes:
            self.hits += 1
            self._bytes.move_to_end(digest)
            self._users[digest] += 1
            return []
        idle = [each for each in self._bytes if not self._users[each] and each not in self._pinned]
        over_bytes = self.resident_bytes + size_bytes - self.budget_bytes
        evicted: list[str] = []
        for each in idle:
            if over_bytes <= 0:
                break
            evicted.append(each)
            over_bytes -= self._bytes[each]
        if over_bytes > 0:
            return None
        for each in evicted:
            del self._bytes[each]
        self.misses += 1
        self.evictions += len(evicted)
        self._bytes[digest] = size_bytes
        self._users[digest] += 1
        return evicted

    def release(self, digest: str) -> None:
        """Close one reservation; the digest stays resident."""
        self._users[digest] -= 1
        if self._users[digest] <= 0:
            del self._users[digest]

    def pin(self, digest: str) -> None:
        """Keep a resident digest until `unpin` or `remove`."""
        if digest in self._bytes:
            self._pinned.add(digest)

    def remove(self, digest: str) -> bool:
        """Let go of an idle digest; False when it was not resident."""
        assert not self._users[digest], f"{digest} is in use"
        self._pinned.discard(digest)
        return self._bytes.pop(digest, None) is not None
