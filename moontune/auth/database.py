"""Databases by SQLAlchemy URL, migrated by Alembic when they are opened.

Here, at the lowest layer that has a table; services take the same two functions from `moontune.serving.database`.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from moontune.errors import InvalidField

BUSY_TIMEOUT_MS = 10_000
_READING = "moontune_reading"


def open_database(url: str, migrations: Path, version_table: str = "alembic_version") -> sa.Engine:
    """An engine on `url`, its tables migrated to the newest version of a folder of Alembic migrations.

    SQLite: the folder of the file is made; WAL, full sync at checkpoints and commits, a busy timeout, foreign keys.
    version_table: own name for each folder of migrations that share one database.

    Raises:
        InvalidField: no URL, no driver, a database that cannot be reached, or one that a newer build has migrated.
    """
    try:
        engine = open_engine(url)
        try:
            migrate(engine, migrations, version_table)
        except BaseException:
            engine.dispose()
            raise
    except (SQLAlchemyError, CommandError, ImportError, OSError) as error:
        allowed = f"a SQLAlchemy URL of a database that this build can open; {error}"
        raise InvalidField.of("database", _without_password(url), allowed) from error
    return engine


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "not a URL"


def open_engine(url: str) -> sa.Engine:
    """An engine on `url`, nothing migrated."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True)
    memory = parsed.database in (None, "", ":memory:")
    if not memory:
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    pool = {"poolclass": sa.StaticPool} if memory else {}
    engine = sa.create_engine(parsed, connect_args={"check_same_thread": False}, **pool)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def for_reading(engine: sa.Engine) -> sa.Engine:
    """The same pool for transactions that only read: on SQLite they do not wait for writers. Never write with it."""
    return engine.execution_options(**{_READING: True})


def migrate(engine: sa.Engine, migrations: Path, version_table: str = "alembic_version") -> None:
    """Bring a database to the newest version; a second process that starts at the same time waits for the first."""
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = version_table
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": 0x6D6F6F6E})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; `_begin_sqlite` sends ours
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # what is acknowledged survives a power cut too
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock at once, under the busy timeout; a deferred transaction that turns into a
    # writer later fails without waiting.
    reading = bool(connection.get_execution_options().get(_READING))
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
