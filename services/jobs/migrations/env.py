from moontune.serving.database import run_migrations
from services.jobs.tables import METADATA

run_migrations(METADATA)
