"""The component of a rank that follows: takes the leader's orders from the gang and does its share of each."""

import threading

from moontune.errors import MoontuneError
from moontune.model.base_model import BaseModel
from moontune.telemetry.logs import get_logger
from services.trainer.gang import TorchGang
from services.trainer.learner import Learner, learner_of
from services.trainer.orders import LearnerOptions, ScoreOrder, TrainOrder
from services.trainer.ranks import Ranks

log = get_logger(__name__)


class Uncancelled:
    """Only the leader hears that a caller has left; it tells the others by failing the step."""

    def cancelled(self) -> bool:
        """Never."""
        return False


class Follower:
    """Runs for as long as the worker; nothing is called on it."""

    def __init__(self, learner: Learner, gang: TorchGang) -> None:
        self._learner, self._gang = learner, gang
        threading.Thread(target=self._run, name="follower", daemon=True).start()

    def _run(self) -> None:
        while True:
            order = self._gang.next_order()
            try:
                if isinstance(order, TrainOrder):
                    self._learner.train(Uncancelled(), order)
                elif isinstance(order, ScoreOrder):
                    self._learner.attend()
                elif isinstance(order, str):
                    self._learner.forget(Uncancelled(), order)
            except MoontuneError as error:
                log.info("step refused", rank=self._gang.rank, error=str(error))  # the leader answers the caller
            except Exception:
                log.exception("step failed", rank=self._gang.rank)
                self._gang.give_up("this rank has failed")  # the others would wait for it


def build(base: BaseModel, options: LearnerOptions) -> Follower:
    """The component's factory; returns once every rank is there."""
    gang = TorchGang(Ranks(), base.device)
    return Follower(learner_of(base, options, gang), gang)
