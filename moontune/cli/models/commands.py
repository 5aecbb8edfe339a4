"""The commands: list, show, pull, verify, served."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from moontune.cli.failure import EXIT_FAILED, plain_errors
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.cli.table import show_rows
from moontune.clients.inference import InferenceClient

# `moontune.cli.models.local` is imported by the commands that need it: pydantic takes its time, and no other does.

app = typer.Typer(help="Bases on this machine, their licences, and what a server serves.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(metavar="BASE", help="A base's name, or the path of its folder.")]


@app.command("list")
@plain_errors
def list_models(json: JsonOption = False) -> None:
    """List the bases that moontune knows and those on this machine, with their licences."""
    from moontune.cli.models.local import listed

    show_rows(listed(), json=json, empty="no bases")


@app.command()
@plain_errors
def show(base: NameArgument, json: JsonOption = False) -> None:
    """Show a base's licence, source, sizes and files."""
    from moontune.cli.models.local import shown

    row = shown(base)
    show_rows([row] if json else [{"": name, " ": value} for name, value in row.items()], json=json, empty="")


@app.command()
@plain_errors
def pull(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A base that `moontune models list` names.")],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Take the files from here, not from the hub.")
    ] = None,
) -> None:
    """Fetch a base: continued where it was cut, each file checked against its digest."""
    from moontune.cli.models.local import fetched

    folder = fetched(base, source, _tell)
    _tell(f"{base} is in {folder}; `moontune up --base {base}` serves it")


@app.command()
@plain_errors
def verify(base: NameArgument) -> None:
    """Check a base's files against their digests, and that config, tokenizer and every weight fit together."""
    from moontune.cli.models.local import problems_of

    problems = problems_of(base, _tell)
    for problem in problems:
        _tell(f"wrong: {problem}")
    if problems:
        raise typer.Exit(EXIT_FAILED)
    _tell(f"{base} is whole")


@app.command()
@plain_errors
def served(
    server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None, json: JsonOption = False
) -> None:
    """List what a server serves: its base and every saved checkpoint."""

    async def ask() -> list[dict[str, object]]:
        async with InferenceClient(address(server, "inference"), credentials(key, ca)) as client:
            page = await client.list_models()
            return [{"model": m.name, "skills": ",".join(m.skills)} for m in page.items]

    show_rows(asyncio.run(ask()), json=json, empty="no models")


def _tell(line: str) -> None:
    Console(highlight=False, soft_wrap=True).print(escape(line))
