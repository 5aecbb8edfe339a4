"""`moontune health`: which services answer that they are ready."""

import asyncio
import json as jsonlib
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moontune.cli.failure import EXIT_FAILED, plain_errors
from moontune.cli.server import DEFAULT_SERVER, JsonOption, ServerOption, address
from moontune.cli.stack import probe
from moontune.cli.stack.plan import PORT_OFFSETS

GatewayOption = Annotated[str, typer.Option("--gateway", envvar="MOONTUNE_GATEWAY", help="The gateway's URL.")]


@plain_errors
def health(
    server: ServerOption = DEFAULT_SERVER, gateway: GatewayOption = "http://127.0.0.1:8080", json: JsonOption = False
) -> None:
    """Ask every service whether it is ready; exit code 1 unless all are."""
    answers = asyncio.run(_ask(server, gateway.rstrip("/")))
    if json:
        print(jsonlib.dumps({name: ready for name, (_, ready) in answers.items()}))  # noqa: T201
    else:
        table = Table("service", "address", "state", box=None, pad_edge=False)
        for name, (where, ready) in answers.items():
            table.add_row(name, where, "[green]ready[/]" if ready else "[red]not ready[/]")
        Console(highlight=False, soft_wrap=True).print(table)
    if not all(ready for _, ready in answers.values()):
        raise typer.Exit(EXIT_FAILED)


async def _ask(server: str, gateway: str) -> dict[str, tuple[str, bool]]:
    places = {service: address(server, service) for service in PORT_OFFSETS}
    ready = await asyncio.gather(*(probe.grpc_ready(place) for place in places.values()), probe.http_ready(gateway))
    places["gateway"] = gateway
    return {name: (place, answer) for (name, place), answer in zip(places.items(), ready, strict=True)}
