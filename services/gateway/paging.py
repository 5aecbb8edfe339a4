"""Pages of the HTTP API: ascending, with a cursor that is the last item's key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.gateway.convert import Json

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items and how to get the next ones; next_cursor is None on the last page."""

    items: Sequence[T]
    next_cursor: str | None

    def json(self) -> Json:
        """`next_cursor` and `has_more`."""
        return {"next_cursor": self.next_cursor, "has_more": self.next_cursor is not None}


def page_of(items: Sequence[T], key: Callable[[T], str], limit: int, cursor: str | None) -> Page[T]:
    """The items whose key is after the cursor, ascending. An item that was deleted meanwhile does not break it."""
    after = sorted((item for item in items if cursor is None or key(item) > cursor), key=key)
    shown = after[:limit]
    return Page(shown, key(shown[-1]) if len(after) > limit else None)
