"""Alembic's entry: the chassis hands a live connection over in `config.attributes`."""

from alembic import context

from services.jobs.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
