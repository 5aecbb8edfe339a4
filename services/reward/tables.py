"""Tables of the reward database; `migrations/` creates them. Times are UTC, as seconds since 1970."""

import sqlalchemy as sa

METADATA = sa.MetaData()

REWARDS = sa.Table(
    "rewards",
    METADATA,
    sa.Column("organisation", sa.String(128), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(71), primary_key=True),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("info", sa.Text, nullable=False),
    sa.Column("registered_at", sa.Float, nullable=False),
)
"""Every version of every registered reward; the one registered last is what the bare name means."""

REGISTRATIONS = sa.Table(
    "reward_registrations",
    METADATA,
    sa.Column("organisation", sa.String(128), primary_key=True),
    sa.Column("request_id", sa.String(128), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("version", sa.String(71), nullable=False),
    sa.Column("made_at", sa.Float, nullable=False),
)
"""RegisterReward by request id: the same request again answers the same."""
