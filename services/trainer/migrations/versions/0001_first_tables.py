"""First tables: finetunes, steps, checkpoints, requests, metrics; an organisation on every row.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_finetunes()
    _create_steps()
    _create_checkpoints()
    _create_requests()
    _create_metrics()


def downgrade() -> None:
    for table in ("metrics", "requests", "checkpoints", "steps", "finetunes"):
        op.drop_table(table)


def _create_finetunes() -> None:
    op.create_table(
        "finetunes",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("organisation", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("base", sa.String(256), nullable=False),
        sa.Column("base_digest", sa.String(71), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("lora", sa.JSON, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("adapter_digest", sa.String(71), nullable=False),
        sa.Column("folder", sa.String(64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=True),
    )
    living = sa.text("deleted_at IS NULL")
    op.create_index(
        "finetunes_name",
        "finetunes",
        ["organisation", "name"],
        unique=True,
        sqlite_where=living,
        postgresql_where=living,
    )


def _create_steps() -> None:
    op.create_table(
        "steps",
        sa.Column("finetune_id", sa.String(26), sa.ForeignKey("finetunes.id"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("organisation", sa.String(128), nullable=False),
        sa.Column("adapter_digest", sa.String(71), nullable=False),
        sa.Column("folder", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("applied_at", MOMENT, nullable=False),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("organisation", sa.String(128), nullable=False),
        sa.Column("finetune_id", sa.String(26), sa.ForeignKey("finetunes.id"), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("adapter_digest", sa.String(71), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("client_state", sa.LargeBinary, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.UniqueConstraint("finetune_id", "step", name="checkpoints_step"),
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("organisation", sa.String(128), primary_key=True),
        sa.Column("rpc", sa.String(32), primary_key=True),
        sa.Column("request_id", sa.String(128), primary_key=True),
        sa.Column("payload_digest", sa.String(64), nullable=False),
        sa.Column("response", sa.JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"])


def _create_metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("organisation", sa.String(128), nullable=False),
        sa.Column("finetune_id", sa.String(26), sa.ForeignKey("finetunes.id"), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("logged_at", MOMENT, nullable=False),
    )
    op.create_index("metrics_history", "metrics", ["finetune_id", "step", "id"])
