"""`moontune finetunes list`."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import typer

from moontune.cli.failure import plain_errors
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.cli.table import show_rows
from moontune.clients.trainer import TrainerClient

T = TypeVar("T")

finetunes = typer.Typer(help="Finetunes on a server.", no_args_is_help=True)


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

    show_rows(_run(ask()), json=json, empty="no finetunes yet")


def _run(work: Awaitable[T]) -> T:
    async def wait() -> T:
        return await work

    return asyncio.run(wait())
