from moontune.serving.database import run_migrations
from services.trainer.tables import METADATA

run_migrations(METADATA)
