"""One page of a list."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items in the list's order. next_page_token: asks for the page after this one; "" on the last."""

    items: tuple[Item, ...]
    next_page_token: str = ""
