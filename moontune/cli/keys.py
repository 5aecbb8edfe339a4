"""`moontune keys ...`: API keys, straight in their database."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moontune.cli.failure import plain_errors
from moontune.errors import InvalidField
from moontune.values.principal import LOCAL_ORGANISATION, Scope

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


@app.command()
@plain_errors
def create(
    organisation: Annotated[str, typer.Option(help="Whose key it is.")] = LOCAL_ORGANISATION,
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
    scopes: Annotated[str, typer.Option(help="read, infer, train, admin, separated by commas.")] = "read,infer,train",
    data_dir: DataOption = DEFAULT_DATA,
    database: DatabaseOption = "",
) -> None:
    """Make a key and print it, this once."""
    key, secret = _store(data_dir, database).create(organisation, name, _scopes(scopes))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"key {key.id} of {escape(organisation)}; services ask for one from now on. Shown once:")
    print(secret)  # noqa: T201  (alone on standard output, for $(...))


@app.command("list")
@plain_errors
def list_keys(data_dir: DataOption = DEFAULT_DATA, database: DatabaseOption = "") -> None:
    """List the keys, without their secrets."""
    table = Table("id", "organisation", "name", "scopes", "created", "revoked", box=None, pad_edge=False)
    for key in _store(data_dir, database).list():
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        created = f"{key.created_at:%Y-%m-%d %H:%M}"
        table.add_row(key.id, key.organisation, escape(key.name), ",".join(sorted(key.scopes)), created, revoked)
    Console(highlight=False, soft_wrap=True).print(table if table.row_count else "no keys; the services are open here")


@app.command()
@plain_errors
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as keys list shows it.")],
    data_dir: DataOption = DEFAULT_DATA,
    database: DatabaseOption = "",
) -> None:
    """End a key."""
    key = _store(data_dir, database).revoke(key_id)
    print(f"{key.id} of {key.organisation} is revoked")  # noqa: T201


def _scopes(given: str) -> list[Scope]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := [name for name in names if name not in list(Scope)]:
        raise InvalidField.of("scopes", ",".join(unknown), ", ".join(Scope))
    return [Scope(name) for name in names]


def _store(data_dir: Path, database: str) -> "KeyStore":
    from moontune.auth.keys import KeyStore  # only here: SQLAlchemy takes its time and no other command needs it

    if database:
        return KeyStore(database)
    file = data_dir.expanduser().resolve() / "gateway.db"
    if not file.parent.is_dir():
        raise InvalidField.of("data_dir", str(data_dir), "the data folder of a moontune up, or give --database")
    return KeyStore(f"sqlite:///{file}")
