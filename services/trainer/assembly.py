"""The trainer put together: database, folders, store and worker, and the flows over them."""

from dataclasses import dataclass
from pathlib import Path

from moontune.checkpoints import CheckpointStore
from moontune.checkpoints.fail_points import fail_point_setting
from moontune.serving.chassis import Chassis
from moontune.serving.database import open_database
from moontune.telemetry.logs import get_logger
from services.trainer.adapter_files import AdapterSource
from services.trainer.answers import Answers
from services.trainer.branches import Branches
from services.trainer.config import TrainerSettings
from services.trainer.exports import Exports
from services.trainer.finetunes import Finetunes
from services.trainer.folders import StepFolders
from services.trainer.history import History
from services.trainer.imports import Imports
from services.trainer.ledger import Ledger
from services.trainer.logprobs import Logprobs
from services.trainer.metrics_log import MetricsLog
from services.trainer.news import News
from services.trainer.publication import Publication
from services.trainer.queueing import FairQueue
from services.trainer.retention import KeepRule, Retention
from services.trainer.saved import SavedCheckpoints
from services.trainer.saves import Saves
from services.trainer.train_steps import TrainSteps
from services.trainer.transactions import Transactions
from services.trainer.turns import Turns
from services.trainer.watch import Watch

MIGRATIONS = Path(__file__).parent / "migrations"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Trainer:
    """The flows that the servicer calls."""

    finetunes: Finetunes
    steps: TrainSteps
    saves: Saves
    adapters: AdapterSource
    publication: Publication
    metrics_log: MetricsLog
    logprobs: Logprobs
    retention: Retention
    watch: Watch
    imports: Imports
    exports: Exports


def assemble(chassis: Chassis, settings: TrainerSettings) -> Trainer:
    """Open the database, the folders and the store, and remove what a kill left on the local volume."""
    assert chassis.worker is not None, "the trainer needs a model worker"
    worker = chassis.worker
    queue = FairQueue()
    if (fails_at := fail_point_setting()) is not None:
        log.warning("this process is set to kill itself", fail_point=fails_at[0])
    transactions = Transactions(open_database(settings.database_url, MIGRATIONS))
    ledger, answers, saved = Ledger(transactions), Answers(transactions), SavedCheckpoints(transactions)
    store, folders, turns = CheckpointStore(settings.store_url), StepFolders(settings.data_dir), Turns()
    for name in folders.clean_all(ledger.folders()):
        log.warning("removed a step that was never acknowledged", folder=name)
    saves = Saves(ledger, answers, saved, store, folders, worker, turns)
    rule = KeepRule(settings.keep_steps, settings.keep_hours, settings.keep_bytes)
    branches = Branches(ledger, saved, store, folders)
    finetunes = Finetunes(ledger, answers, saves, branches, folders, worker, turns)
    return Trainer(
        finetunes=finetunes,
        steps=TrainSteps(ledger, answers, folders, worker, turns, queue, chassis.metrics),
        saves=saves,
        adapters=AdapterSource(ledger, saved, store, folders),
        publication=Publication(chassis.metrics),
        metrics_log=MetricsLog(ledger, answers, History(transactions), turns),
        logprobs=Logprobs(ledger, folders, worker, queue),
        retention=Retention(ledger, answers, saved, saves, folders, turns, rule),
        watch=Watch(News(transactions), turns, chassis.draining, settings.most_watchers),
        imports=Imports(finetunes, answers, folders, worker, settings.import_bytes),
        exports=Exports(saves, store, folders, worker),
    )
