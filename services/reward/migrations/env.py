from moontune.serving.database import run_migrations
from services.reward.tables import METADATA

run_migrations(METADATA)
