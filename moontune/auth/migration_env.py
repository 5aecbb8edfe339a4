"""The body of every Alembic `env.py`: run on the connection that `open_database` opened."""

import sqlalchemy as sa
from alembic import context


def run_migrations(metadata: sa.MetaData | None = None) -> None:
    """Call it from a folder's `env.py`; metadata: the tables, for autogenerate."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        target_metadata=metadata,
        version_table=attributes["version_table"],
        render_as_batch=True,
        transaction_per_migration=False,
    )
    context.run_migrations()
