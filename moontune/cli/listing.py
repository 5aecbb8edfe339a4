"""`moontune finetunes list`, `moontune models list`."""

import asyncio
import json as jsonlib
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moontune.cli.failure import plain_errors
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.clients.inference import InferenceClient
from moontune.clients.trainer import TrainerClient

T = TypeVar("T")

finetunes = typer.Typer(help="Finetunes on a server.", no_args_is_help=True)
models = typer.Typer(help="Models that can be asked.", no_args_is_help=True)


@finetunes.command("list")
@plain_errors
def list_finetunes(
    server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None, json: JsonOption = False
) -> None:
    """List finetunes, newest first."""

    async def ask() -> list[dict[str, object]]:
        async with TrainerClient(address(server, "trainer"), credentials(key, ca)) as client:
            page = await client.list_finetunes(page_size=1000)
            return [
                {"id": f.id, "name": f.name, "base": f.base, "step": f.step, "rank": f.lora.rank} for f in page.items
            ]

    _show(_run(ask()), json=json, empty="no finetunes yet")


@models.command("list")
@plain_errors
def list_models(
    server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None, json: JsonOption = False
) -> None:
    """List the base and every saved checkpoint that is served."""

    async def ask() -> list[dict[str, object]]:
        async with InferenceClient(address(server, "inference"), credentials(key, ca)) as client:
            page = await client.list_models()
            return [{"model": m.name, "skills": ",".join(m.skills)} for m in page.items]

    _show(_run(ask()), json=json, empty="no models")


def _run(work: Awaitable[T]) -> T:
    async def wait() -> T:
        return await work

    return asyncio.run(wait())


def _show(rows: Sequence[dict[str, object]], *, json: bool, empty: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if json:
        for row in rows:
            print(jsonlib.dumps(row))  # noqa: T201
    elif not rows:
        console.print(empty)
    else:
        table = Table(box=None, pad_edge=False)
        for name in rows[0]:
            table.add_column(name, no_wrap=name == "id")  # an id is there to be pasted
        for row in rows:
            table.add_row(*(escape(str(value)) for value in row.values()))
        console.print(table)
