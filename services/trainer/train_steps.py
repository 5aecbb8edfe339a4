"""The flow of one optimiser step: take the groups in, compare and set, compute, commit, answer.

The learner writes the new step's folder; the step exists once the transaction here is on the disk, with the answer in
it. A cut at any point leaves either the step before (and a folder that nobody refers to) or the step with its answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Protocol, cast

from moontune.errors import InvalidField, StepMismatch
from moontune.serving.worker import ModelWorker
from moontune.values.finetune import Finetune
from moontune.values.training import Group, TrainStep, TrainStepResult
from services.trainer.folders import StepFolders
from services.trainer.groups import check_group
from services.trainer.ledger import Answer, Ledger
from services.trainer.orders import StepOutcome, TrainOrder
from services.trainer.rows import FinetuneRow, StepRow
from services.trainer.spool import Spool, named_group, new_spool
from services.trainer.turns import Turns, uninterrupted

RPC = "TrainStep"
LINEAGE_STEPS = 64
"""At least so many recent steps' digests are looked up for a rollout's policy to be checked against."""


class PayloadDigest(Protocol):
    """Digest of a whole request, over messages in one normal form (images by digest)."""

    def add(self, group: Group) -> None:
        """Count one more group, its image by name."""
        ...

    def hexdigest(self) -> str:
        """64 hex digits."""
        ...


class TrainSteps:
    """Applies steps to finetunes, one at a time each."""

    def __init__(self, ledger: Ledger, folders: StepFolders, worker: ModelWorker, turns: Turns) -> None:
        self._ledger, self._folders, self._worker, self._turns = ledger, folders, worker, turns

    async def apply(
        self, organisation: str, step: TrainStep, count: int, groups: AsyncIterator[Group], payload: PayloadDigest
    ) -> TrainStepResult:
        """Apply one step.

        Args:
            organisation: of the caller.
            step: the order; its groups come by `groups`.
            count: how many groups the caller announced.
            groups: in order, images with bytes or by digest.
            payload: of the header; every group is added to it.

        Raises:
            FinetuneNotFound, StepMismatch, RequestIdReused, WrongBase, ImageUnknown, InvalidField (naming
            `groups[i]`), NonFiniteStep, WorkerDied. In every case nothing was applied.
        """
        row = await asyncio.to_thread(self._ledger.finetune, organisation, step.finetune_id)
        # Every step whose rollouts may be trained on, so that one of a line that was restored away is always told.
        count_known = max(LINEAGE_STEPS, step.settings.max_staleness_steps + 1)
        lineage = await asyncio.to_thread(self._ledger.recent_digests, step.finetune_id, count_known)
        with new_spool(self._folders.spool) as spool:
            received = 0
            async for group in groups:
                if received == count:
                    raise InvalidField.of("header.group_count", count, "the number of groups sent; more came")
                await asyncio.to_thread(_take_in, spool, received, group, row.finetune, lineage, payload)
                received += 1
            if received != count:
                raise InvalidField.of("header.group_count", count, f"the number of groups sent, {received}")
            async with self._turns.of(step.finetune_id):
                return await self._in_turn(organisation, step, spool, count, payload.hexdigest(), lineage)

    async def _in_turn(
        self,
        organisation: str,
        step: TrainStep,
        spool: Spool,
        count: int,
        payload_digest: str,
        lineage: Mapping[int, str],
    ) -> TrainStepResult:
        stored = await asyncio.to_thread(self._ledger.replay, organisation, RPC, step.request_id, payload_digest)
        if stored is not None:
            return _result(stored, replayed=True)
        row = await asyncio.to_thread(self._ledger.finetune, organisation, step.finetune_id)
        check_expected(step.expected_step, row.finetune)
        await asyncio.to_thread(self._check_same_line, row.finetune, lineage)
        name = self._folders.new_name(row.finetune.id, row.finetune.step + 1)
        order = TrainOrder(
            finetune=row.finetune,
            folder=str(self._folders.path(row.folder)),
            spool=str(spool.folder),
            groups=count,
            settings=step.settings,
            new_folder=str(self._folders.path(name)),
            client_state=step.client_state,
        )
        outcome: StepOutcome = await self._worker.call("learner", "train", order)
        answer = Answer(organisation, RPC, step.request_id, payload_digest, _response(row.finetune, outcome))
        await uninterrupted(self._commit, row, name, outcome, answer)
        return _result(answer.response, replayed=False)

    def _check_same_line(self, finetune: Finetune, lineage: Mapping[int, str]) -> None:
        """Raise StepMismatch if a restore came while the groups did: they were checked against the line before it."""
        checked = max(lineage)
        now = self._ledger.recent_digests(finetune.id, max(1, finetune.step - checked + 1))
        if now.get(checked) != lineage[checked]:
            raise StepMismatch(
                f"finetune {finetune.id} was restored while this call's groups came in; it is at step {finetune.step}",
                metadata={"step": str(finetune.step)},
            )

    def _commit(self, row: FinetuneRow, name: str, outcome: StepOutcome, answer: Answer) -> None:
        if outcome.written is None:
            self._ledger.remember(answer)
            return
        step = StepRow(
            finetune_id=row.finetune.id,
            step=row.finetune.step + 1,
            adapter_digest=outcome.written.adapter_digest,
            folder=name,
            size_bytes=outcome.written.size_bytes,
            applied_at=datetime.now(UTC),
            metrics=outcome.metrics,
        )
        self._ledger.commit_step(row.finetune, step, answer)


def check_expected(expected_step: int | None, finetune: Finetune) -> None:
    """Raise StepMismatch unless the finetune is at the step that the caller expects (None expects nothing)."""
    if expected_step is not None and expected_step != finetune.step:
        raise StepMismatch(
            f"expected_step is {expected_step}; finetune {finetune.id} is at step {finetune.step}",
            metadata={"step": str(finetune.step), "expected_step": str(expected_step)},
        )


def _response(finetune: Finetune, outcome: StepOutcome) -> dict[str, object]:
    applied = outcome.written is not None
    return {
        "step": finetune.step + applied,
        "applied": applied,
        "adapter_digest": outcome.written.adapter_digest if outcome.written else finetune.adapter_digest,
        "reason": outcome.reason,
        "metrics": dict(outcome.metrics),
    }


def _result(response: Mapping[str, object], *, replayed: bool) -> TrainStepResult:
    return TrainStepResult(
        step=cast("int", response["step"]),
        applied=cast("bool", response["applied"]),
        adapter_digest=cast("str", response["adapter_digest"]),
        reason=cast("str", response["reason"]),
        metrics=cast("dict[str, float]", response["metrics"]),
        replayed=replayed,
    )


def _take_in(
    spool: Spool,
    index: int,
    group: Group,
    finetune: Finetune,
    lineage: Mapping[int, str],
    payload: PayloadDigest,
) -> None:
    field = f"groups[{index}]"
    check_group(group, finetune, lineage, field)
    named = named_group(group, spool, field)
    payload.add(named)
    spool.add_group(index, named)
