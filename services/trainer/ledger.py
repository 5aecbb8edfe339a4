"""The ledger of finetunes and their steps: every change is one transaction, and its answer is part of it.

A mutating rpc is answered only after the transaction that holds both its effect and its answer is on the disk.
Blocking: callers run it off the event loop.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from moontune.checkpoints.fail_points import fail_point
from moontune.errors import FinetuneExists, FinetuneNotFound, StepMismatch, StepNotFound
from moontune.values.finetune import Finetune
from services.trainer import tables
from services.trainer.answers import Answer, insert_answer
from services.trainer.line import Line
from services.trainer.rows import FinetuneRow, StepRow, finetune_columns, finetune_row, step_columns, step_row
from services.trainer.saved import hide_checkpoints
from services.trainer.transactions import Transactions


@dataclass(frozen=True, slots=True)
class Placed:
    """A step's files on the local volume: the folder's name and the bytes in it."""

    folder: str
    size_bytes: int


class Ledger:
    """Finetunes and steps in one database."""

    def __init__(self, transactions: Transactions) -> None:
        """Use a database that has been migrated."""
        self._transactions = transactions

    def add_finetune(self, row: FinetuneRow, size_bytes: int, answer: Answer) -> None:
        """Add a finetune at its first step, with the answer to the request; FinetuneExists when the name is taken."""
        finetune = row.finetune
        first = StepRow(
            finetune.id, finetune.step, finetune.adapter_digest, row.folder, size_bytes, finetune.created_at
        )
        try:
            with self._transactions.write() as connection:
                connection.execute(sa.insert(tables.finetunes).values(finetune_columns(row)))
                connection.execute(sa.insert(tables.steps).values(step_columns(first, finetune.organisation)))
                insert_answer(connection, answer)
                fail_point("create.in-transaction")
        except IntegrityError as error:
            raise FinetuneExists(f"a finetune named {finetune.name!r} exists already") from error

    def finetune(self, organisation: str, finetune_id: str) -> FinetuneRow:
        """A finetune of this organisation; FinetuneNotFound when there is none or it was deleted."""
        found = self._one(tables.finetunes.c.id == finetune_id, tables.finetunes.c.organisation == organisation)
        if found is None:
            raise _not_found(finetune_id)
        return found

    def named(self, organisation: str, name: str) -> FinetuneRow | None:
        """The finetune of this name, or None."""
        return self._one(tables.finetunes.c.name == name, tables.finetunes.c.organisation == organisation)

    def list_finetunes(self, organisation: str, limit: int, before_id: str = "") -> list[FinetuneRow]:
        """Newest first; `before_id` continues after that finetune of the page before."""
        table = tables.finetunes
        query = sa.select(table).where(table.c.organisation == organisation, table.c.deleted_at.is_(None))
        if before_id:
            query = query.where(table.c.id < before_id)
        with self._transactions.read() as connection:
            rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit)).mappings()
            return [finetune_row(row) for row in rows]

    def all_finetunes(self) -> list[FinetuneRow]:
        """Those of every organisation, newest first."""
        table = tables.finetunes
        query = sa.select(table).where(table.c.deleted_at.is_(None)).order_by(table.c.id.desc())
        with self._transactions.read() as connection:
            return [finetune_row(row) for row in connection.execute(query).mappings()]

    def delete_finetune(self, organisation: str, finetune_id: str, answer: Answer) -> None:
        """Hide a finetune with its checkpoints and drop its steps and history; its id is never used again."""
        table = tables.finetunes
        with self._transactions.write() as connection:
            done = connection.execute(
                sa.update(table)
                .where(table.c.id == finetune_id, table.c.organisation == organisation, table.c.deleted_at.is_(None))
                .values(deleted_at=datetime.now(UTC))
            )
            if done.rowcount != 1:
                raise _not_found(finetune_id)
            for owned in (tables.steps, tables.metrics):
                connection.execute(sa.delete(owned).where(owned.c.finetune_id == finetune_id))
            hide_checkpoints(connection, tables.checkpoints.c.finetune_id == finetune_id)
            insert_answer(connection, answer)
            fail_point("delete.in-transaction")

    def commit_step(self, before: Finetune, step: StepRow, answer: Answer) -> None:
        """Make an applied step the present one, with its metrics and the answer; StepMismatch if another came first."""
        figures = [
            {
                "organisation": before.organisation,
                "finetune_id": step.finetune_id,
                "step": step.step,
                "name": name,
                "value": value,
                "logged_at": step.applied_at,
            }
            for name, value in step.metrics.items()
        ]
        with self._transactions.write() as connection:
            _advance(connection, before, step)
            connection.execute(sa.insert(tables.steps).values(step_columns(step, before.organisation)))
            if figures:
                connection.execute(sa.insert(tables.metrics), figures)
            insert_answer(connection, answer)
            fail_point("step.in-transaction")

    def commit_restore(self, before: Finetune, to: StepRow, placed: Placed, answer: Answer) -> None:
        """Set a finetune back to one of its steps, whose files are in `placed`. Later steps stay, beside the line."""
        step = StepRow(
            to.finetune_id,
            to.step,
            to.adapter_digest,
            placed.folder,
            placed.size_bytes,
            to.applied_at,
            to.metrics,
            to.parent,
        )
        with self._transactions.write() as connection:
            _advance(connection, before, step)
            _place(connection, to, placed)
            insert_answer(connection, answer)
            fail_point("restore.in-transaction")

    def present_step(self, finetune_id: str) -> int:
        """Where a finetune of whatever organisation stands; FinetuneNotFound."""
        found = self._one(tables.finetunes.c.id == finetune_id)
        if found is None:
            raise _not_found(finetune_id)
        return found.finetune.step

    def next_step(self, finetune_id: str) -> int:
        """The number of the finetune's next step: one that no step of it ever had."""
        query = sa.select(sa.func.max(tables.steps.c.step)).where(tables.steps.c.finetune_id == finetune_id)
        with self._transactions.read() as connection:
            return 1 + (connection.execute(query).scalar() or 0)

    def step(self, finetune_id: str, step: int) -> StepRow:
        """An applied step; StepNotFound when it never was."""
        table = tables.steps
        with self._transactions.read() as connection:
            query = sa.select(table).where(table.c.finetune_id == finetune_id, table.c.step == step)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise StepNotFound(
                f"finetune {finetune_id} has no step {step}", metadata={"finetune_id": finetune_id, "step": str(step)}
            )
        return step_row(row)

    def steps(self, finetune_id: str) -> list[StepRow]:
        """All steps, also those beside the present line, ascending."""
        table = tables.steps
        query = sa.select(table).where(table.c.finetune_id == finetune_id).order_by(table.c.step)
        with self._transactions.read() as connection:
            return [step_row(row) for row in connection.execute(query).mappings()]

    def line(self, finetune: Finetune, count: int) -> Line:
        """The last `count` steps that the finetune's present weights came through."""
        table = tables.steps
        fields = (table.c.step, table.c.parent, table.c.adapter_digest)
        mine = table.c.finetune_id == finetune.id
        walk = (
            sa.select(*fields, sa.literal(1).label("place"))
            .where(mine, table.c.step == finetune.step)
            .cte("line", recursive=True)
        )
        before = sa.select(*fields, walk.c.place + 1).where(mine, table.c.step == walk.c.parent, walk.c.place < count)
        walk = walk.union_all(before)
        with self._transactions.read() as connection:
            rows = connection.execute(sa.select(walk).order_by(walk.c.place)).all()
        return Line({row.step: row.adapter_digest for row in rows}, whole=not rows or rows[-1].parent is None)

    def expire_step(self, finetune_id: str, step: int) -> None:
        """Record that a step's files are gone; the row stays, so that its digest is still known."""
        with self._transactions.write() as connection:
            connection.execute(
                sa.update(tables.steps)
                .where(tables.steps.c.finetune_id == finetune_id, tables.steps.c.step == step)
                .values(folder="", size_bytes=0)
            )

    def folders(self) -> set[str]:
        """Names of all step folders that are referred to; others are left-overs of unacknowledged steps."""
        with self._transactions.read() as connection:
            named = connection.execute(sa.select(tables.steps.c.folder).where(tables.steps.c.folder != ""))
            return set(named.scalars())

    def _one(self, *conditions: sa.ColumnElement[bool]) -> FinetuneRow | None:
        query = sa.select(tables.finetunes).where(*conditions, tables.finetunes.c.deleted_at.is_(None))
        with self._transactions.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else finetune_row(row)


def _advance(connection: sa.Connection, before: Finetune, step: StepRow) -> None:
    """Compare and set, as the first statement, so that the write lock is taken before anything is read."""
    table = tables.finetunes
    done = connection.execute(
        sa.update(table)
        .where(
            table.c.id == before.id,
            table.c.step == before.step,
            table.c.adapter_digest == before.adapter_digest,
            table.c.deleted_at.is_(None),
        )
        .values(step=step.step, adapter_digest=step.adapter_digest, folder=step.folder, updated_at=datetime.now(UTC))
    )
    if done.rowcount != 1:
        raise StepMismatch(f"finetune {before.id} moved on from step {before.step} during the call")


def _place(connection: sa.Connection, step: StepRow, placed: Placed) -> None:
    table = tables.steps
    connection.execute(
        sa.update(table)
        .where(table.c.finetune_id == step.finetune_id, table.c.step == step.step)
        .values(folder=placed.folder, size_bytes=placed.size_bytes)
    )


def _not_found(finetune_id: str) -> FinetuneNotFound:
    return FinetuneNotFound(f"there is no finetune {finetune_id!r}", metadata={"finetune_id": finetune_id})
