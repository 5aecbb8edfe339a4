"""A least-recently-used cache with a budget in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ByteCache(Generic[Key, Value]):
    """Entries leave oldest use first when their bytes exceed the budget; not thread-safe.

    An entry larger than the whole budget is not kept, so `put` then `get` may answer None.
    """

    def __init__(self, budget_bytes: int) -> None:
        """`budget_bytes` 0 keeps nothing."""
        self.budget_bytes = budget_bytes
        self.resident_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """The value, now the most recently used; None when it is not held. Counts a hit or a miss."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Hold a value, replacing one of the same key, and evict until the budget holds."""
        self.discard(key)
        if size_bytes > self.budget_bytes:
            return
        self._entries[key] = (value, size_bytes)
        self.resident_bytes += size_bytes
        while self.resident_bytes > self.budget_bytes:
            _, (_, freed_bytes) = self._entries.popitem(last=False)
            self.resident_bytes -= freed_bytes
            self.evictions += 1

    def discard(self, key: Key) -> None:
        """Forget a key; nothing happens when it is not held."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.resident_bytes -= entry[1]
