"""The ledger of finetunes and their steps: every change is one transaction, and its answer is part of it.

A mutating rpc is answered only after the transaction that holds both its effect and its answer is on the disk; a
retry finds the answer, a crash before it finds nothing. Blocking: callers run it off the event loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from moontune.errors import FinetuneExists, FinetuneNotFound, RequestIdReused, StepMismatch, StepNotFound
from moontune.serving.database import for_reading
from moontune.values.finetune import Finetune
from services.trainer import tables
from services.trainer.rows import FinetuneRow, StepRow, finetune_columns, finetune_row, step_row

REQUESTS_KEPT = timedelta(days=7)

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request id is remembered by. payload_digest: 64 hex digits. response: enough to build the answer again."""

    organisation: str
    rpc: str
    request_id: str
    payload_digest: str
    response: Json


class Ledger:
    """Finetunes, steps and remembered answers in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        """Use a database that has been migrated."""
        self.engine = engine
        self._reader = for_reading(engine)

    def replay(self, organisation: str, rpc: str, request_id: str, payload_digest: str) -> Json | None:
        """The stored response to this request id, or None.

        Raises:
            RequestIdReused: the id came with another payload within the last 7 days.
        """
        table = tables.requests
        query = sa.select(table.c.payload_digest, table.c.response).where(
            table.c.organisation == organisation, table.c.rpc == rpc, table.c.request_id == request_id
        )
        with self._reader.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.payload_digest != payload_digest:
            raise RequestIdReused(
                f"request_id {request_id!r} came with another {rpc} payload before; take a new id for a new request",
                metadata={"request_id": request_id},
            )
        return cast("Json", row.response)

    def remember(self, answer: Answer) -> None:
        """Store an answer to a request that changed nothing else."""
        with self.engine.begin() as connection:
            insert_answer(connection, answer)

    def forget_old_answers(self) -> None:
        """Drop answers older than 7 days."""
        limit = datetime.now(UTC) - REQUESTS_KEPT
        with self.engine.begin() as connection:
            connection.execute(sa.delete(tables.requests).where(tables.requests.c.created_at < limit))

    def add_finetune(self, row: FinetuneRow, size_bytes: int, answer: Answer) -> None:
        """Add a finetune at its first step, with the answer to the request; FinetuneExists when the name is taken."""
        finetune = row.finetune
        try:
            with self.engine.begin() as connection:
                connection.execute(sa.insert(tables.finetunes).values(finetune_columns(row)))
                connection.execute(
                    sa.insert(tables.steps).values(
                        finetune_id=finetune.id,
                        step=finetune.step,
                        organisation=finetune.organisation,
                        adapter_digest=finetune.adapter_digest,
                        folder=row.folder,
                        size_bytes=size_bytes,
                        metrics={},
                        applied_at=finetune.created_at,
                    )
                )
                insert_answer(connection, answer)
        except IntegrityError as error:
            raise FinetuneExists(f"a finetune named {finetune.name!r} exists already") from error

    def finetune(self, organisation: str, finetune_id: str) -> FinetuneRow:
        """A finetune of this organisation; FinetuneNotFound when there is none or it was deleted."""
        table = tables.finetunes
        query = sa.select(table).where(
            table.c.id == finetune_id, table.c.organisation == organisation, table.c.deleted_at.is_(None)
        )
        with self._reader.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise FinetuneNotFound(f"there is no finetune {finetune_id!r}", metadata={"finetune_id": finetune_id})
        return finetune_row(row)

    def named(self, organisation: str, name: str) -> FinetuneRow | None:
        """The finetune of this name, or None."""
        table = tables.finetunes
        query = sa.select(table).where(
            table.c.organisation == organisation, table.c.name == name, table.c.deleted_at.is_(None)
        )
        with self._reader.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else finetune_row(row)

    def list_finetunes(self, organisation: str, limit: int, before_id: str = "") -> list[FinetuneRow]:
        """Newest first; `before_id` continues after that finetune of the page before."""
        table = tables.finetunes
        query = sa.select(table).where(table.c.organisation == organisation, table.c.deleted_at.is_(None))
        if before_id:
            query = query.where(table.c.id < before_id)
        with self._reader.connect() as connection:
            rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit)).mappings()
            return [finetune_row(row) for row in rows]

    def delete_finetune(self, organisation: str, finetune_id: str, answer: Answer) -> None:
        """Hide a finetune, its steps and its checkpoints; its id and rows stay, so that neither is used again."""
        table = tables.finetunes
        with self.engine.begin() as connection:
            done = connection.execute(
                sa.update(table)
                .where(table.c.id == finetune_id, table.c.organisation == organisation, table.c.deleted_at.is_(None))
                .values(deleted_at=datetime.now(UTC))
            )
            if done.rowcount != 1:
                raise FinetuneNotFound(f"there is no finetune {finetune_id!r}", metadata={"finetune_id": finetune_id})
            connection.execute(sa.delete(tables.checkpoints).where(tables.checkpoints.c.finetune_id == finetune_id))
            connection.execute(sa.delete(tables.steps).where(tables.steps.c.finetune_id == finetune_id))
            insert_answer(connection, answer)

    def commit_step(self, before: Finetune, step: StepRow, answer: Answer) -> None:
        """Make an applied step the present one, with its metrics and the answer; StepMismatch if another came first."""
        with self.engine.begin() as connection:
            self._advance(connection, before, step)
            connection.execute(
                sa.insert(tables.steps).values(
                    finetune_id=step.finetune_id,
                    step=step.step,
                    organisation=before.organisation,
                    adapter_digest=step.adapter_digest,
                    folder=step.folder,
                    size_bytes=step.size_bytes,
                    metrics=dict(step.metrics),
                    applied_at=step.applied_at,
                )
            )
            if step.metrics:
                connection.execute(
                    sa.insert(tables.metrics),
                    [
                        {
                            "organisation": before.organisation,
                            "finetune_id": step.finetune_id,
                            "step": step.step,
                            "name": name,
                            "value": value,
                            "logged_at": step.applied_at,
                        }
                        for name, value in step.metrics.items()
                    ],
                )
            insert_answer(connection, answer)

    def commit_restore(self, before: Finetune, step: StepRow, answer: Answer) -> list[str]:
        """Set a finetune back to a step; later steps and their figures leave the line. Returns folders to remove."""
        later = (tables.steps.c.finetune_id == before.id) & (tables.steps.c.step >= step.step)
        after = (tables.metrics.c.finetune_id == before.id) & (tables.metrics.c.step > step.step)
        with self.engine.begin() as connection:
            self._advance(connection, before, step)
            folders = connection.execute(sa.select(tables.steps.c.folder).where(later)).scalars().all()
            connection.execute(sa.delete(tables.steps).where(later))
            connection.execute(sa.delete(tables.metrics).where(after))
            connection.execute(
                sa.insert(tables.steps).values(
                    finetune_id=before.id,
                    step=step.step,
                    organisation=before.organisation,
                    adapter_digest=step.adapter_digest,
                    folder=step.folder,
                    size_bytes=step.size_bytes,
                    metrics=dict(step.metrics),
                    applied_at=step.applied_at,
                )
            )
            insert_answer(connection, answer)
        return [folder for folder in folders if folder and folder != step.folder]

    def step(self, finetune_id: str, step: int) -> StepRow:
        """An applied step of the present line; StepNotFound when it never was."""
        table = tables.steps
        with self._reader.connect() as connection:
            query = sa.select(table).where(table.c.finetune_id == finetune_id, table.c.step == step)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise StepNotFound(
                f"finetune {finetune_id} has no step {step}", metadata={"finetune_id": finetune_id, "step": str(step)}
            )
        return step_row(row)

    def steps(self, finetune_id: str) -> list[StepRow]:
        """All steps of the present line, ascending."""
        table = tables.steps
        query = sa.select(table).where(table.c.finetune_id == finetune_id).order_by(table.c.step)
        with self._reader.connect() as connection:
            return [step_row(row) for row in connection.execute(query).mappings()]

    def recent_digests(self, finetune_id: str, count: int) -> dict[int, str]:
        """Adapter digests of the last `count` steps, by step."""
        table = tables.steps
        query = sa.select(table.c.step, table.c.adapter_digest).where(table.c.finetune_id == finetune_id)
        with self._reader.connect() as connection:
            rows = connection.execute(query.order_by(table.c.step.desc()).limit(count))
            return {row.step: row.adapter_digest for row in rows}

    def expire_step(self, finetune_id: str, step: int) -> None:
        """Record that a step's files are gone; the row stays, so that its digest is still known."""
        table = tables.steps
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.finetune_id == finetune_id, table.c.step == step)
                .values(folder="", size_bytes=0)
            )

    def folders(self) -> set[str]:
        """Names of all step folders that are referred to; others are left-overs of unacknowledged steps."""
        with self._reader.connect() as connection:
            named = connection.execute(sa.select(tables.steps.c.folder).where(tables.steps.c.folder != ""))
            return set(named.scalars())

    @staticmethod
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
            .values(
                step=step.step,
                adapter_digest=step.adapter_digest,
                folder=step.folder,
                updated_at=datetime.now(UTC),
            )
        )
        if done.rowcount != 1:
            raise StepMismatch(f"finetune {before.id} moved on from step {before.step} during the call")


def insert_answer(connection: sa.Connection, answer: Answer) -> None:
    """Store an answer inside the transaction of its effect."""
    connection.execute(
        sa.insert(tables.requests).values(
            organisation=answer.organisation,
            rpc=answer.rpc,
            request_id=answer.request_id,
            payload_digest=answer.payload_digest,
            response=dict(answer.response),
            created_at=datetime.now(UTC),
        )
    )
