"""Rows of saved checkpoints; their files are in the checkpoint store."""

from datetime import datetime

import sqlalchemy as sa

from moontune.errors import CheckpointNotFound
from moontune.serving.database import for_reading
from moontune.values.finetune import Checkpoint
from services.trainer import tables
from services.trainer.ledger import Answer, insert_answer


class SavedCheckpoints:
    """The list of saved steps in the trainer's database. Blocking."""

    def __init__(self, engine: sa.Engine) -> None:
        """Use a database that has been migrated."""
        self._engine = engine
        self._reader = for_reading(engine)

    def add(self, checkpoint: Checkpoint, client_state: bytes | None, answer: Answer) -> None:
        """List a checkpoint whose files are in the store, with the answer to the request."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(tables.checkpoints).values(
                    id=checkpoint.id,
                    organisation=answer.organisation,
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
            insert_answer(connection, answer)

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
        query = sa.select(table).where(table.c.finetune_id == finetune_id)
        query = query.where(table.c.id == checkpoint_id if checkpoint_id is not None else table.c.step == step)
        with self._reader.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _checkpoint(row)

    def client_state(self, checkpoint_id: str) -> bytes | None:
        """The caller's bytes kept with a checkpoint."""
        table = tables.checkpoints
        with self._reader.connect() as connection:
            return connection.execute(sa.select(table.c.client_state).where(table.c.id == checkpoint_id)).scalar()

    def list(self, finetune_id: str, limit: int, below_step: int | None = None) -> list[Checkpoint]:
        """Latest step first; `below_step` continues after that step of the page before."""
        table = tables.checkpoints
        query = sa.select(table).where(table.c.finetune_id == finetune_id)
        if below_step is not None:
            query = query.where(table.c.step < below_step)
        with self._reader.connect() as connection:
            rows = connection.execute(query.order_by(table.c.step.desc()).limit(limit)).mappings()
            return [_checkpoint(row) for row in rows]

    def expired(self, now: datetime) -> "list[Checkpoint]":
        """Checkpoints whose time is over."""
        table = tables.checkpoints
        with self._reader.connect() as connection:
            rows = connection.execute(sa.select(table).where(table.c.expires_at <= now)).mappings()
            return [_checkpoint(row) for row in rows]

    def remove(self, checkpoint_id: str, answer: Answer | None = None) -> None:
        """Take a checkpoint off the list, before its files are deleted."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(tables.checkpoints).where(tables.checkpoints.c.id == checkpoint_id))
            if answer is not None:
                insert_answer(connection, answer)


def _checkpoint(fields: sa.RowMapping) -> Checkpoint:
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
