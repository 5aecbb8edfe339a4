"""Rows of saved checkpoints; their files are in the checkpoint store."""

from datetime import datetime

import sqlalchemy as sa

from moontune.checkpoints.fail_points import fail_point
from moontune.errors import CheckpointNotFound
from moontune.values.finetune import Checkpoint
from services.trainer import tables
from services.trainer.answers import Answer, insert_answer
from services.trainer.transactions import Transactions


class SavedCheckpoints:
    """The list of saved steps in the trainer's database. Blocking.

    A checkpoint is deleted in two moves: it leaves the list, durably, then its files go and `forget` drops the row. A
    kill in between leaves nothing half-deleted in sight; `leaving` tells what is still to be done.
    """

    def __init__(self, transactions: Transactions) -> None:
        """Use a database that has been migrated."""
        self._transactions = transactions

    def add(
        self, checkpoint: Checkpoint, client_state: bytes | None, organisation: str, answer: Answer | None = None
    ) -> None:
        """List a checkpoint whose files are in the store, with the answer to the request that there was, if any."""
        with self._transactions.write() as connection:
            connection.execute(
                sa.insert(tables.checkpoints).values(
                    id=checkpoint.id,
                    organisation=organisation,
                    finetune_id=checkpoint.finetune_id,
                    step=checkpoint.step,
                    adapter_digest=checkpoint.adapter_digest,
                    size_bytes=checkpoint.size_bytes,
                    metrics=dict(checkpoint.metrics),
                    client_state=client_state,
                    created_at=checkpoint.created_at,
                    expires_at=checkpoint.expires_at,
                )
            )
            if answer is not None:
                insert_answer(connection, answer)
            fail_point("save.in-transaction")

    def get(self, finetune_id: str, *, checkpoint_id: str | None = None, step: int | None = None) -> Checkpoint:
        """One checkpoint, by its id or by its step; CheckpointNotFound when it is not saved."""
        found = self.find(finetune_id, checkpoint_id=checkpoint_id, step=step)
        if found is None:
            which = f"with id {checkpoint_id!r}" if checkpoint_id is not None else f"at step {step}"
            raise CheckpointNotFound(
                f"finetune {finetune_id} has no saved checkpoint {which}", metadata={"finetune_id": finetune_id}
            )
        return found

    def find(self, finetune_id: str, *, checkpoint_id: str | None = None, step: int | None = None) -> Checkpoint | None:
        """As `get`, None when it is not saved."""
        table = tables.checkpoints
        query = sa.select(table).where(table.c.finetune_id == finetune_id, table.c.deleting.is_(False))
        query = query.where(table.c.id == checkpoint_id if checkpoint_id is not None else table.c.step == step)
        with self._transactions.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else checkpoint_row(row)

    def client_state(self, checkpoint_id: str) -> bytes | None:
        """The caller's bytes kept with a checkpoint."""
        table = tables.checkpoints
        with self._transactions.read() as connection:
            return connection.execute(sa.select(table.c.client_state).where(table.c.id == checkpoint_id)).scalar()

    def list(self, finetune_id: str, limit: int, below_step: int | None = None) -> list[Checkpoint]:
        """Latest step first; `below_step` continues after that step of the page before."""
        table = tables.checkpoints
        query = sa.select(table).where(table.c.finetune_id == finetune_id, table.c.deleting.is_(False))
        if below_step is not None:
            query = query.where(table.c.step < below_step)
        with self._transactions.read() as connection:
            rows = connection.execute(query.order_by(table.c.step.desc()).limit(limit)).mappings()
            return [checkpoint_row(row) for row in rows]

    def stored_bytes(self, organisation: str) -> int:
        """Bytes of the organisation's listed checkpoints."""
        table = tables.checkpoints
        query = sa.select(sa.func.sum(table.c.size_bytes)).where(
            table.c.organisation == organisation, table.c.deleting.is_(False)
        )
        with self._transactions.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def expired(self, now: datetime) -> "list[Checkpoint]":
        """Listed checkpoints whose time is over."""
        table = tables.checkpoints
        return self._all(table.c.expires_at <= now, table.c.deleting.is_(False))

    def leaving(self, finetune_id: str | None = None) -> "list[Checkpoint]":
        """Checkpoints (of one finetune) that have left the list and whose files may still be there."""
        table = tables.checkpoints
        mine = () if finetune_id is None else (table.c.finetune_id == finetune_id,)
        return self._all(table.c.deleting, *mine)

    def hide(self, checkpoint_id: str, answer: Answer | None = None) -> None:
        """Take a checkpoint off the list, with the answer to the request that there was, if any."""
        with self._transactions.write() as connection:
            hide_checkpoints(connection, tables.checkpoints.c.id == checkpoint_id)
            if answer is not None:
                insert_answer(connection, answer)
            fail_point("remove.in-transaction")

    def forget(self, checkpoint_id: str) -> None:
        """Drop the row of a checkpoint whose files are gone."""
        with self._transactions.write() as connection:
            connection.execute(sa.delete(tables.checkpoints).where(tables.checkpoints.c.id == checkpoint_id))

    def _all(self, *conditions: sa.ColumnElement[bool]) -> "list[Checkpoint]":
        with self._transactions.read() as connection:
            rows = connection.execute(sa.select(tables.checkpoints).where(*conditions)).mappings()
            return [checkpoint_row(row) for row in rows]


def hide_checkpoints(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Take checkpoints off the list inside a transaction; their files go after it."""
    connection.execute(sa.update(tables.checkpoints).where(which).values(deleting=True))


def checkpoint_row(fields: sa.RowMapping) -> Checkpoint:
    """A row as a checkpoint."""
    return Checkpoint(
        id=fields["id"],
        finetune_id=fields["finetune_id"],
        step=fields["step"],
        adapter_digest=fields["adapter_digest"],
        size_bytes=fields["size_bytes"],
        created_at=fields["created_at"],
        expires_at=fields["expires_at"],
        metrics=fields["metrics"],
    )
