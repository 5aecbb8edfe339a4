"""Page sizes and page tokens of the trainer's lists."""

from moontune.errors import InvalidField

MOST_DIGITS = 18
"""What fits a 64-bit column."""


def page_size_of(given: int, default: int, most: int, field: str = "page_size") -> int:
    """A list's page size: 0 is the default; InvalidField outside 0..most."""
    if not 0 <= given <= most:
        raise InvalidField.of(field, given, f"0 to {most}")
    return given or default


def numbers_of(page_token: str, count: int) -> tuple[int, ...]:
    """The `count` whole numbers, joined by colons, that a token of ours holds; InvalidField for any other token."""
    parts = page_token.split(":")
    # Not isdigit alone: other scripts have digits too, and some of them are no number.
    if len(parts) != count or not all(part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS for part in parts):
        raise InvalidField.of("page_token", page_token, "next_page_token of the page before")
    return tuple(int(part) for part in parts)
