"""The trainer's tables. Every row has its organisation; migrations are in `migrations/versions`.

finetunes    one row a policy; `step`, `adapter_digest` and `folder` name its present weights
steps        one row an applied step, for ever, so that no number is used twice; `parent` is the step it was made from
             (NULL: the base), `folder` is empty once the local files have expired
checkpoints  saved steps; their files are in the checkpoint store. `deleting`: no longer listed, its files are going
requests     answers to mutating rpcs by request id, for replays
metrics      health figures of steps and numbers that callers log (`by_caller`)
"""

from datetime import UTC, datetime

import sqlalchemy as sa


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware datetime; databases that drop the zone (SQLite) hold and give back UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """As UTC."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = sa.MetaData()

finetunes = sa.Table(
    "finetunes",
    METADATA,
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
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("deleted_at", UtcDateTime, nullable=True),
    sa.Index(
        "finetunes_name",
        "organisation",
        "name",
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    ),
)

steps = sa.Table(
    "steps",
    METADATA,
    sa.Column("finetune_id", sa.String(26), sa.ForeignKey("finetunes.id"), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("organisation", sa.String(128), nullable=False),
    sa.Column("adapter_digest", sa.String(71), nullable=False),
    sa.Column("folder", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
    sa.Column("parent", sa.Integer, nullable=True),
)

checkpoints = sa.Table(
    "checkpoints",
    METADATA,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("organisation", sa.String(128), nullable=False),
    sa.Column("finetune_id", sa.String(26), sa.ForeignKey("finetunes.id"), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("adapter_digest", sa.String(71), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("client_state", sa.LargeBinary, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=True),
    sa.Column("deleting", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("finetune_id", "step", name="checkpoints_step"),
)

requests = sa.Table(
    "requests",
    METADATA,
    sa.Column("organisation", sa.String(128), primary_key=True),
    sa.Column("rpc", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(128), primary_key=True),
    sa.Column("payload_digest", sa.String(64), nullable=False),
    sa.Column("response", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
)

metrics = sa.Table(
    "metrics",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("organisation", sa.String(128), nullable=False),
    sa.Column("finetune_id", sa.String(26), sa.ForeignKey("finetunes.id"), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("logged_at", UtcDateTime, nullable=False),
    sa.Column("by_caller", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("metrics_history", "finetune_id", "step", "id"),
)
