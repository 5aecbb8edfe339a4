"""The flow of one optimiser step: take the groups in, compare and set, compute, commit, answer.

The learner writes the new step's folder; the step exists once the transaction here is on the disk, with the answer in
it. A cut at any point leaves either the step before (and a folder that nobody refers to) or the step with its answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Protocol, cast

from moontune.checkpoints.fail_points import fail_point
from moontune.errors import InvalidField, StepMismatch
from moontune.serving.worker import ModelWorker
from moontune.telemetry import names
from moontune.telemetry.logs import get_logger
from moontune.telemetry.metrics import ServiceMetrics
from moontune.telemetry.names import TrainKey
from moontune.values.finetune import Finetune
from moontune.values.training import Group, TrainStep, TrainStepResult
from services.trainer.alarms import alarms
from services.trainer.answers import Answer, Answers
from services.trainer.folders import StepFolders
from services.trainer.groups import check_group
from services.trainer.ledger import Ledger
from services.trainer.line import Line
from services.trainer.orders import StepOutcome, TrainOrder
from services.trainer.queueing import FairQueue
from services.trainer.rows import FinetuneRow, StepRow
from services.trainer.spool import Spool, named_group, new_spool
from services.trainer.turns import Turns, uninterrupted

log = get_logger(__name__)
RPC = "TrainStep"
LINE_STEPS = 64
"""At least so many recent steps of the line are looked up for a rollout's policy to be checked against."""


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

    def __init__(
        self,
        ledger: Ledger,
        answers: Answers,
        folders: StepFolders,
        worker: ModelWorker,
        turns: Turns,
        queue: FairQueue,
        metrics: ServiceMetrics,
    ) -> None:
        self._ledger, self._answers, self._folders = ledger, answers, folders
        self._worker, self._turns, self._queue, self._metrics = worker, turns, queue, metrics

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
        started = time.monotonic()
        row = await asyncio.to_thread(self._ledger.finetune, organisation, step.finetune_id)
        line = await self._line(row.finetune, step)
        # A call that was answered before is told apart by its payload alone: where the finetune stands now, perhaps
        # restored to an earlier step, says nothing about groups that were good when they came.
        answered = await asyncio.to_thread(self._answers.known, organisation, RPC, step.request_id)
        check = None if answered else (row.finetune, line)
        with new_spool(self._folders.spool) as spool:
            received = 0
            async for group in groups:
                if received == count:
                    raise InvalidField.of("header.group_count", count, "the number of groups sent; more came")
                await asyncio.to_thread(_take_in, spool, received, group, check, payload)
                received += 1
            if received != count:
                raise InvalidField.of("header.group_count", count, f"the number of groups sent, {received}")
            upload_s = time.monotonic() - started
            async with self._turns.of(step.finetune_id):
                answer = Answer(organisation, RPC, step.request_id, payload.hexdigest(), {})
                return await self._in_turn(step, spool, count, answer, line, upload_s)

    async def _in_turn(
        self, step: TrainStep, spool: Spool, count: int, answer: Answer, line: Line, upload_s: float
    ) -> TrainStepResult:
        organisation = answer.organisation
        stored = await asyncio.to_thread(
            self._answers.replay, organisation, RPC, step.request_id, answer.payload_digest
        )
        if stored is not None:
            return _result(stored, replayed=True)
        row = await asyncio.to_thread(self._ledger.finetune, organisation, step.finetune_id)
        check_expected(step.expected_step, row.finetune)
        now = await self._line(row.finetune, step)
        _check_same_line(row.finetune, line, now)
        order = await asyncio.to_thread(self._order, row, now, step, spool, count)
        async with self._queue.turn(step.finetune_id):
            outcome: StepOutcome = await self._worker.call("learner", "train", order)
        fail_point("step.computed")
        outcome = replace(outcome, metrics={**outcome.metrics, TrainKey.SECONDS_UPLOAD: upload_s})
        answer = replace(answer, response=_response(row.finetune, order, outcome))
        started = time.monotonic()
        await uninterrupted(self._commit, row, order, outcome, answer)
        self._metrics.histogram(names.TRAIN_PHASE_SECONDS, phase="commit").observe(time.monotonic() - started)
        fail_point("step.committed")
        for alarm in alarms(outcome.metrics, step.settings):
            log.warning("training alarm", finetune_id=step.finetune_id, step=order.step, **asdict(alarm))
        return _result(answer.response, replayed=False)

    async def _line(self, finetune: Finetune, step: TrainStep) -> Line:
        # Every step whose rollouts may be trained on, so that one beside the line is always told.
        count = max(LINE_STEPS, step.settings.max_staleness_steps + 1)
        return await asyncio.to_thread(self._ledger.line, finetune, count)

    def _order(self, row: FinetuneRow, line: Line, step: TrainStep, spool: Spool, count: int) -> TrainOrder:
        number = self._ledger.next_step(row.finetune.id)
        return TrainOrder(
            finetune=row.finetune,
            line=line,
            folder=str(self._folders.path(row.folder)),
            spool=str(spool.folder),
            groups=count,
            settings=step.settings,
            step=number,
            new_folder=str(self._folders.path(self._folders.new_name(row.finetune.id, number))),
            client_state=step.client_state,
        )

    def _commit(self, row: FinetuneRow, order: TrainOrder, outcome: StepOutcome, answer: Answer) -> None:
        if outcome.written is None:
            self._answers.remember(answer)
            return
        step = StepRow(
            finetune_id=row.finetune.id,
            step=order.step,
            adapter_digest=outcome.written.adapter_digest,
            folder=self._folders.name(order.new_folder),
            size_bytes=outcome.written.size_bytes,
            applied_at=datetime.now(UTC),
            metrics=outcome.metrics,
            parent=row.finetune.step,
        )
        self._ledger.commit_step(row.finetune, step, answer)


def _check_same_line(finetune: Finetune, checked: Line, now: Line) -> None:
    """Raise StepMismatch if a restore came while the groups did: they were checked against the line before it."""
    if not now.may_hold(checked.present):
        raise StepMismatch(
            f"finetune {finetune.id} was restored while this call's groups came in; it is at step {finetune.step}",
            metadata={"step": str(finetune.step)},
        )


def check_expected(expected_step: int | None, finetune: Finetune) -> None:
    """Raise StepMismatch unless the finetune is at the step that the caller expects (None expects nothing)."""
    if expected_step is not None and expected_step != finetune.step:
        raise StepMismatch(
            f"expected_step is {expected_step}; finetune {finetune.id} is at step {finetune.step}",
            metadata={"step": str(finetune.step), "expected_step": str(expected_step)},
        )


def _response(finetune: Finetune, order: TrainOrder, outcome: StepOutcome) -> dict[str, object]:
    applied = outcome.written is not None
    return {
        "step": order.step if applied else finetune.step,
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
    spool: Spool, index: int, group: Group, check: tuple[Finetune, Line] | None, payload: PayloadDigest
) -> None:
    field = f"groups[{index}]"
    if check is not None:
        check_group(group, *check, field)
    named = named_group(group, spool, field)
    payload.add(named)
    spool.add_group(index, named)
