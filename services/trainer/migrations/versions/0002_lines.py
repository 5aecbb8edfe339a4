"""Steps know the step they were made from, metrics whether a caller logged them, checkpoints whether they are going.

Before, a restore deleted the later steps, so every line is without gaps.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("parent", sa.Integer, nullable=True))
    op.execute("UPDATE steps SET parent = step - 1 WHERE step > 0")
    op.add_column("checkpoints", sa.Column("deleting", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("metrics", sa.Column("by_caller", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("checkpoints", "deleting")
    op.drop_column("metrics", "by_caller")
    op.drop_column("steps", "parent")
