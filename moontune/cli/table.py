"""Rows for a person, as a table, or for a program, as one JSON object a line."""

import json as jsonlib
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_rows(rows: Sequence[Mapping[str, object]], *, json: bool, empty: str) -> None:
    """Print rows of the same keys; `empty` is what a person reads where there are none."""
    console = Console(highlight=False, soft_wrap=True)
    if json:
        for row in rows:
            print(jsonlib.dumps(row))  # noqa: T201
    elif not rows:
        console.print(empty)
    else:
        table = Table(box=None, pad_edge=False)
        for name in rows[0]:
            table.add_column(name, no_wrap=name in ("id", "key"))  # an id is there to be pasted
        for row in rows:
            table.add_row(*(escape(_shown(value)) for value in row.values()))
        console.print(table)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
