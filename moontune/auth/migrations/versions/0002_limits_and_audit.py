"""Limits of a key, and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as table:
        table.add_column(sa.Column("requests_per_s", sa.Float, nullable=True))
        table.add_column(sa.Column("concurrent_requests", sa.Integer, nullable=True))
        table.add_column(sa.Column("storage_bytes", sa.BigInteger, nullable=True))
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("organisation", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(26), nullable=False),
        sa.Column("action", sa.String(256), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("peer", sa.String(128), nullable=False),
    )
    op.create_index("ix_audit_log_organisation_at", "audit_log", ["organisation", "at"])


def downgrade() -> None:
    op.drop_table("audit_log")
    with op.batch_alter_table("api_keys") as table:
        for name in ("storage_bytes", "concurrent_requests", "requests_per_s"):
            table.drop_column(name)
