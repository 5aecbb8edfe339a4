"""Errors in plain words: what a person reads instead of a trace."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from moontune.errors import MoontuneError, Unauthenticated, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def plain_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Wrap a command: errors of the tree end it with a sentence on standard error and exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except MoontuneError as error:
            tell(error)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped


def tell(error: MoontuneError) -> None:
    """Print an error and, where there is one, what to do about it."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error[/] {escape(error.message)}")
    if isinstance(error, Unauthenticated):
        console.print("give a key with --key or MOONTUNE_API_KEY; `moontune keys create` makes one")
    elif isinstance(error, Unavailable):
        console.print("is it running? `moontune up` starts every service, `moontune health` shows what answers")
