"""`moontune keys ...`: API keys, straight in their database."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from moontune.cli.failure import plain_errors
from moontune.cli.server import JsonOption
from moontune.cli.table import show_rows
from moontune.errors import InvalidField
from moontune.values.principal import LOCAL_ORGANISATION, KeyLimits, Scope

if TYPE_CHECKING:
    from moontune.auth.keys import KeyStore

app = typer.Typer(help="API keys. While there is none, services answer on this machine only.", no_args_is_help=True)
DataOption = Annotated[
    Path, typer.Option("--data-dir", help="Data folder of moontune up; its gateway.db has the keys.")
]
DatabaseOption = Annotated[
    str, typer.Option("--database", envvar="MOONTUNE_KEYS_DATABASE", help="SQLAlchemy URL, in place of --data-dir.")
]
DEFAULT_DATA = Path("moontune-data")
_MINUTE = "%Y-%m-%d %H:%M"


@app.command()
@plain_errors
def create(
    organisation: Annotated[str, typer.Option(help="Whose key it is.")] = LOCAL_ORGANISATION,
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
    scopes: Annotated[str, typer.Option(help="read, infer, train, admin, separated by commas.")] = "read,infer,train",
    requests_per_s: Annotated[float | None, typer.Option(help="Most requests a second; unset: no limit.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Most requests at once; unset: no limit.")] = None,
    storage_gib: Annotated[float | None, typer.Option(help="Most GiB of checkpoints; unset: no limit.")] = None,
    data_dir: DataOption = DEFAULT_DATA,
    database: DatabaseOption = "",
) -> None:
    """Make a key and print it, this once."""
    storage_bytes = None if storage_gib is None else round(storage_gib * 2**30)
    limits = KeyLimits(requests_per_s, concurrent, storage_bytes)
    with _opened(data_dir, database) as store:
        key, secret = store.create(organisation, name, _scopes(scopes), limits)
    _show(f"key {key.id} of {escape(organisation)}; services ask for one from now on. Shown once:", secret)


@app.command("list")
@plain_errors
def list_keys(data_dir: DataOption = DEFAULT_DATA, database: DatabaseOption = "", json: JsonOption = False) -> None:
    """List the keys, without their secrets."""
    with _opened(data_dir, database) as store:
        keys = store.list()
    rows = [
        {
            "id": key.id,
            "organisation": key.organisation,
            "name": key.name,
            "scopes": ", ".join(sorted(key.scopes)),
            "limits": _limits(key.limits),
            "created": f"{key.created_at:{_MINUTE}}",
            "revoked": f"{key.revoked_at:{_MINUTE}}" if key.revoked_at else "",
        }
        for key in keys
    ]
    show_rows(rows, json=json, empty="no keys; the services are open here")


@app.command()
@plain_errors
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as keys list shows it.")],
    data_dir: DataOption = DEFAULT_DATA,
    database: DatabaseOption = "",
) -> None:
    """End a key."""
    with _opened(data_dir, database) as store:
        key = store.revoke(key_id)
    print(f"{key.id} of {key.organisation} is revoked")  # noqa: T201


@app.command()
@plain_errors
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as keys list shows it.")],
    overlap_hours: Annotated[float, typer.Option(min=0.0, help="How long the old key works on.")] = 24.0,
    data_dir: DataOption = DEFAULT_DATA,
    database: DatabaseOption = "",
) -> None:
    """Make a key like another one and print it; the other one works a while longer."""
    with _opened(data_dir, database) as store:
        key, secret = store.rotate(key_id, timedelta(hours=overlap_hours))
    _show(f"key {key.id} of {escape(key.organisation)} follows {key_id}. Shown once:", secret)


@app.command()
@plain_errors
def audit(
    organisation: Annotated[str, typer.Option(help="Only of this organisation.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most entries.")] = 50,
    data_dir: DataOption = DEFAULT_DATA,
    database: DatabaseOption = "",
    json: JsonOption = False,
) -> None:
    """Show who changed what, newest first; refusals too."""
    with _opened(data_dir, database) as store:
        entries = store.audit.list(organisation or None, limit)
    rows = [
        {
            "at (UTC)": f"{entry.at:%Y-%m-%d %H:%M:%S}",
            "organisation": entry.organisation,
            "key": entry.key_id,
            "action": entry.action,
            "outcome": entry.outcome,
            "from": entry.peer,
        }
        for entry in entries
    ]
    show_rows(rows, json=json, empty="nothing was done yet")


def _show(line: str, secret: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)
    print(secret)  # noqa: T201  (alone on standard output, for $(...))


def _limits(limits: KeyLimits) -> str:
    shown: list[str] = []
    if limits.requests_per_s is not None:
        shown.append(f"{limits.requests_per_s:g}/s")
    if limits.concurrent_requests is not None:
        shown.append(f"{limits.concurrent_requests} at once")
    if limits.storage_bytes is not None:
        shown.append(f"{limits.storage_bytes / 2**30:g} GiB")
    return ", ".join(shown)


def _scopes(given: str) -> list[Scope]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := [name for name in names if name not in list(Scope)]:
        raise InvalidField.of("scopes", ",".join(unknown), ", ".join(Scope))
    return [Scope(name) for name in names]


def _opened(data_dir: Path, database: str) -> "closing[KeyStore]":
    return closing(_store(data_dir, database))


def _store(data_dir: Path, database: str) -> "KeyStore":
    from moontune.auth.keys import KeyStore  # only here: SQLAlchemy takes its time and no other command needs it

    if database:
        return KeyStore(database)
    file = data_dir.expanduser().resolve() / "gateway.db"
    if not file.parent.is_dir():
        raise InvalidField.of("data_dir", str(data_dir), "the data folder of a moontune up, or give --database")
    return KeyStore(f"sqlite:///{file}")
