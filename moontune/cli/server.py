"""Which machine a command talks to: options that many commands share, and clients made from them."""

from pathlib import Path
from typing import Annotated

import typer

from moontune.cli.stack.plan import PORT_OFFSETS
from moontune.clients.credentials import Credentials, Tls
from moontune.errors import InvalidField

ServerOption = Annotated[
    str,
    typer.Option("--server", envvar="MOONTUNE_SERVER", help="host:port-base; services listen 1 to 5 above it."),
]
KeyOption = Annotated[str, typer.Option("--key", envvar="MOONTUNE_API_KEY", help="API key, where keys are in use.")]
CaOption = Annotated[
    Path | None, typer.Option("--ca", envvar="MOONTUNE_CA", help="PEM roots of the servers; given, TLS is used.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
DEFAULT_SERVER = "127.0.0.1:7050"


def address(server: str, service: str) -> str:
    """host:port of a service; `server` is host:port-base as `moontune up --port-base` takes it."""
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidField.of("server", server, "host:port-base, 127.0.0.1:7050 say")
    return f"{host}:{int(port) + PORT_OFFSETS[service]}"


def credentials(key: str, ca: Path | None = None) -> Credentials:
    """What a command shows to the services."""
    return Credentials(api_key=key or None, tls=Tls(authority=ca) if ca else None)
