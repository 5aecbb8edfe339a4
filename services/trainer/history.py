"""A finetune's numbers over time: health figures of its steps and what callers log."""

from collections.abc import Sequence

import sqlalchemy as sa

from moontune.values.finetune import MetricPoint
from services.trainer import tables
from services.trainer.answers import Answer, insert_answer
from services.trainer.transactions import Transactions


class History:
    """Metrics in the trainer's database. Blocking."""

    def __init__(self, transactions: Transactions) -> None:
        """Use a database that has been migrated."""
        self._transactions = transactions

    def log(self, finetune_id: str, points: Sequence[MetricPoint], answer: Answer) -> None:
        """Add points, with the answer to the request."""
        rows = [
            {
                "organisation": answer.organisation,
                "finetune_id": finetune_id,
                "step": point.step,
                "name": point.name,
                "value": point.value,
                "logged_at": point.logged_at,
                "by_caller": True,
            }
            for point in points
        ]
        with self._transactions.write() as connection:
            connection.execute(sa.insert(tables.metrics), rows)
            insert_answer(connection, answer)

    def points(
        self,
        finetune_id: str,
        limit: int,
        names: Sequence[str] = (),
        after_step: int | None = None,
        after: tuple[int, ...] | None = None,
    ) -> list[tuple[int, MetricPoint]]:
        """Points with their row ids, by step, then as they came.

        Args:
            finetune_id: whose.
            limit: most points.
            names: only these metrics; empty takes all.
            after_step: only later steps; None takes all.
            after: (step, row id) of the last point of the page before.
        """
        table = tables.metrics
        query = sa.select(table).where(table.c.finetune_id == finetune_id)
        if names:
            query = query.where(table.c.name.in_(names))
        if after_step is not None:
            query = query.where(table.c.step > after_step)
        if after is not None:
            query = query.where(sa.tuple_(table.c.step, table.c.id) > sa.tuple_(*after))
        query = query.order_by(table.c.step, table.c.id).limit(limit)
        with self._transactions.read() as connection:
            return [
                (row.id, MetricPoint(row.step, row.name, row.value, row.logged_at)) for row in connection.execute(query)
            ]
