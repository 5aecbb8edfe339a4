"""Databases of services: an engine by URL, migrated when opened. See `moontune.auth.database`."""

from moontune.auth.database import for_reading, migrate, open_database, open_engine
from moontune.auth.migration_env import run_migrations

__all__ = ["for_reading", "migrate", "open_database", "open_engine", "run_migrations"]
