"""Transactions of the trainer's database, with its troubles told as errors of ours.

A database that is locked by another process, away, read-only or on a full disk is Unavailable or ResourceExhausted: the
transaction is undone, the call may be tried again, and calls that need no database go on.
"""

from collections.abc import Generator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError

from moontune.errors import CheckpointCorrupt, MoontuneError, ResourceExhausted, Unavailable
from moontune.serving.database import for_reading

RETRY_AFTER_S = 1.0


class Transactions:
    """Read and write transactions of one migrated database. Blocking."""

    def __init__(self, engine: sa.Engine) -> None:
        self._writer, self._reader = engine, for_reading(engine)

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """One transaction, on the disk when the block ends, undone when it raises.

        Raises:
            Unavailable, ResourceExhausted: the database cannot be written now. A violated constraint stays what it is.
        """
        with _troubles_told(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """One transaction that sees one state of the database and waits for no writer; Unavailable if it is away."""
        with _troubles_told(), self._reader.begin() as connection:
            yield connection


@contextmanager
def _troubles_told() -> Generator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _told(str(error.orig)) from error
    except DatabaseError as error:
        if type(error) is not DatabaseError:  # a constraint, or a statement of ours that is wrong
            raise
        raise CheckpointCorrupt(f"the trainer's database is damaged ({error.orig}); put back a copy of it") from error


def _told(trouble: str) -> MoontuneError:
    kind = ResourceExhausted if "full" in trouble or "No space" in trouble else Unavailable
    return kind(
        f"the trainer's database cannot be used now ({trouble}); nothing was changed", retry_after_s=RETRY_AFTER_S
    )
