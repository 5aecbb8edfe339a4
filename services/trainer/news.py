"""What happened to a finetune since a place in its history: steps, saves, callers' numbers, restores.

Read from the database by place, never queued in memory: a reader may be as slow as it likes and misses nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from moontune.errors import FinetuneNotFound
from moontune.values.finetune import Checkpoint, Finetune, FinetuneEvent, MetricPoint, StepApplied
from services.trainer import tables
from services.trainer.rows import StepRow, finetune_row, step_row
from services.trainer.saved import checkpoint_row
from services.trainer.transactions import Transactions

PAGE = 100
"""Most events of a kind that are read at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader is.

    standing: the step where the reader believes the finetune to be. step, metric, checkpoint: the last ones read (a row
    id, a ULID). after_step: numbers and saves that were there at the start count from after this step on; the start is
    first_metric and first_checkpoint.
    """

    standing: int
    step: int
    metric: int
    checkpoint: str
    after_step: int = 0
    first_metric: int = 0
    first_checkpoint: str = ""


class News:
    """Reads events in order. Blocking."""

    def __init__(self, transactions: Transactions) -> None:
        """Use a database that has been migrated."""
        self._transactions = transactions

    def start(self, organisation: str, finetune_id: str, after_step: int | None) -> tuple[Finetune, Place]:
        """The present state and the place from which to read on; FinetuneNotFound.

        after_step: read what happened after this step first; None reads only what happens from now on.
        """
        with self._transactions.read() as connection:
            finetune = _finetune(connection, organisation, finetune_id)
            last = _last(connection, tables.steps.c.step, finetune_id) or 0
            metric = _last(connection, tables.metrics.c.id, finetune_id) or 0
            checkpoint = _last(connection, tables.checkpoints.c.id, finetune_id) or ""
        if after_step is None:
            return finetune, Place(finetune.step, last, metric, checkpoint)
        return finetune, Place(after_step, after_step, 0, "", after_step, metric, checkpoint)

    def since(self, organisation: str, finetune_id: str, place: Place) -> tuple[list[FinetuneEvent], Place]:
        """What happened since, at most PAGE of each kind, and the place behind it; FinetuneNotFound once deleted."""
        with self._transactions.read() as connection:
            finetune = _finetune(connection, organisation, finetune_id)
            steps = _steps(connection, finetune_id, place)
            checkpoints = _checkpoints(connection, finetune_id, place)
            metrics = _metrics(connection, finetune_id, place)
            parents = _digests(connection, finetune_id, {row.parent for row in steps if row.parent is not None})
        events: list[FinetuneEvent] = list(_told(finetune, steps, parents, place.standing))
        standing = steps[-1].step if steps else place.standing
        if len(steps) < PAGE and standing != finetune.step:
            events.append(finetune)
            standing = finetune.step
        events += checkpoints
        events += [point for _, point in metrics]
        return events, replace(
            place,
            standing=standing,
            step=steps[-1].step if steps else place.step,
            metric=metrics[-1][0] if metrics else place.metric,
            checkpoint=checkpoints[-1].id if checkpoints else place.checkpoint,
        )


def _told(
    finetune: Finetune, steps: list[StepRow], digests: dict[int, str], standing: int
) -> Iterator[Finetune | StepApplied]:
    """Each step, and before one that was not made from the step before it, the state that a restore had left."""
    for row in steps:
        if row.parent is not None and row.parent != standing:
            yield replace(finetune, step=row.parent, adapter_digest=digests.get(row.parent, ""))
        yield StepApplied(row.step, row.adapter_digest, row.applied_at, row.metrics)
        standing = row.step


def _finetune(connection: sa.Connection, organisation: str, finetune_id: str) -> Finetune:
    table = tables.finetunes
    query = sa.select(table).where(
        table.c.id == finetune_id, table.c.organisation == organisation, table.c.deleted_at.is_(None)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise FinetuneNotFound(f"there is no finetune {finetune_id!r}", metadata={"finetune_id": finetune_id})
    return finetune_row(row).finetune


def _last(connection: sa.Connection, column: "sa.Column[Any]", finetune_id: str) -> Any:
    return connection.execute(sa.select(sa.func.max(column)).where(column.table.c.finetune_id == finetune_id)).scalar()


def _steps(connection: sa.Connection, finetune_id: str, place: Place) -> list[StepRow]:
    table = tables.steps
    query = sa.select(table).where(
        table.c.finetune_id == finetune_id, table.c.step > place.step, table.c.parent.is_not(None)
    )
    return [step_row(row) for row in connection.execute(query.order_by(table.c.step).limit(PAGE)).mappings()]


def _checkpoints(connection: sa.Connection, finetune_id: str, place: Place) -> list[Checkpoint]:
    table = tables.checkpoints
    query = sa.select(table).where(
        table.c.finetune_id == finetune_id,
        table.c.id > place.checkpoint,
        table.c.deleting.is_(False),
        (table.c.step > place.after_step) | (table.c.id > place.first_checkpoint),
    )
    return [checkpoint_row(row) for row in connection.execute(query.order_by(table.c.id).limit(PAGE)).mappings()]


def _metrics(connection: sa.Connection, finetune_id: str, place: Place) -> list[tuple[int, MetricPoint]]:
    table = tables.metrics
    query = sa.select(table).where(
        table.c.finetune_id == finetune_id,
        table.c.id > place.metric,
        table.c.by_caller,
        (table.c.step > place.after_step) | (table.c.id > place.first_metric),
    )
    rows = connection.execute(query.order_by(table.c.id).limit(PAGE))
    return [(row.id, MetricPoint(row.step, row.name, row.value, row.logged_at)) for row in rows]


def _digests(connection: sa.Connection, finetune_id: str, steps: set[int]) -> dict[int, str]:
    table = tables.steps
    query = sa.select(table.c.step, table.c.adapter_digest).where(
        table.c.finetune_id == finetune_id, table.c.step.in_(steps)
    )
    return {row.step: row.adapter_digest for row in connection.execute(query)}
