"""Tables of the jobs database; `migrations/` creates them. Times are UTC, as seconds since 1970."""

import sqlalchemy as sa

METADATA = sa.MetaData()

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("organisation", sa.String(128), nullable=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("iteration", sa.Integer, nullable=False),
    sa.Column("finetune_id", sa.String(26), nullable=False),
    sa.Column("model", sa.String(512), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("results", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.UniqueConstraint("organisation", "request_id", name="jobs_one_per_request"),
    sa.Index("jobs_by_organisation", "organisation", "id"),
    sa.Index("jobs_by_state", "state", "id"),
)
"""iteration: turns of the loop that were begun and ended, applied or not; step: optimiser steps applied."""

PROGRESS = sa.Table(
    "job_progress",
    METADATA,
    sa.Column("job_id", sa.String(26), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("organisation", sa.String(128), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("total_steps", sa.Integer, nullable=False),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("logged_at", sa.Float, nullable=False),
)

ORDERS = sa.Table(
    "job_orders",
    METADATA,
    sa.Column("organisation", sa.String(128), primary_key=True),
    sa.Column("request_id", sa.String(128), primary_key=True),
    sa.Column("job_id", sa.String(26), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("verb", sa.String(16), nullable=False),
    sa.Column("made_at", sa.Float, nullable=False),
)
"""Cancel, pause and resume by request id: an order sent twice is carried out once."""
