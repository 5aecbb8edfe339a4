"""The flow of scoring rollouts without training."""

import asyncio
from collections.abc import Sequence

from moontune.errors import InvalidField, Unavailable
from moontune.serving.worker import ModelWorker
from moontune.values.logprobs import LogprobResult, RolloutBatch
from moontune.values.model_ref import PolicyVersion
from moontune.values.training import RlGroup
from services.trainer.folders import StepFolders
from services.trainer.groups import check_image
from services.trainer.ledger import Ledger
from services.trainer.orders import ScoreOrder
from services.trainer.queueing import FairQueue
from services.trainer.spool import Spool, named_group, new_spool


class Logprobs:
    """Scores rollouts under a finetune's present policy, or the bare base."""

    def __init__(self, ledger: Ledger, folders: StepFolders, worker: ModelWorker, queue: FairQueue) -> None:
        self._ledger, self._folders, self._worker, self._queue = ledger, folders, worker, queue

    async def compute(self, organisation: str, finetune_id: str, batches: Sequence[RolloutBatch]) -> LogprobResult:
        """Log-probability and entropy of every decision; `finetune_id` "" is the bare base."""
        if not self._worker.ready:
            raise Unavailable("the model worker is not loaded yet; try again", retry_after_s=1.0)
        facts = self._worker.facts
        policy, finetune, folder = PolicyVersion(facts["name"], facts["digest"]), None, ""
        if finetune_id:
            row = await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
            finetune, folder = row.finetune, str(self._folders.path(row.folder))
            policy = PolicyVersion(
                finetune.base, finetune.base_digest, finetune.id, finetune.step, finetune.adapter_digest
            )
        with new_spool(self._folders.spool) as spool:
            for index, batch in enumerate(batches):
                await asyncio.to_thread(_take_in, spool, index, batch)
            order = ScoreOrder(finetune, folder, str(spool.folder), len(batches))
            async with self._queue.turn(finetune_id):
                scores = await self._worker.call("learner", "score", order)
        return LogprobResult(scores, policy)


def _take_in(spool: Spool, index: int, batch: RolloutBatch) -> None:
    field = f"batches[{index}]"
    check_image(batch.request, f"{field}.request")
    for number, rollout in enumerate(batch.rollouts):
        if rollout.temperature == 0.0:
            raise InvalidField.of(f"{field}.rollouts[{number}].temperature", 0.0, "more than 0: greedy has no odds")
    group = RlGroup(batch.request, batch.rollouts, (None,) * len(batch.rollouts))
    spool.add_group(index, named_group(group, spool, field))
