"""Jobs in a database: every change is one transaction, so that kill -9 leaves a job between two steps, never within."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from ulid import ULID

from moontune.data.job_file import config_from_document, config_to_document
from moontune.errors import JobNotFound, RequestIdReused
from moontune.serving.database import for_reading
from moontune.values.job import Job, JobConfig, JobProgress, JobState
from services.jobs.states import UNDER_WAY, Order, check_move, ordered
from services.jobs.tables import JOBS, ORDERS, PROGRESS

ORDERS_KEPT_S = 7 * 24 * 3600.0
"""How long the request id of an order (cancel, pause, resume) is remembered."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a job's loop stands: turns ended (`iteration`), and optimiser steps that they applied (`step`)."""

    iteration: int
    step: int


class JobStore:
    """The jobs of every organisation. Methods block for a few milliseconds; call them in a thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._reading = for_reading(engine)

    def create(self, organisation: str, config: JobConfig, request_id: str) -> Job:
        """Queue a job; the same request again gives the same job. RequestIdReused if it had another config."""
        document = json.dumps(config_to_document(config), sort_keys=True)
        now = time.time()
        with self._engine.begin() as connection:
            row = connection.execute(
                sa.select(JOBS).where(JOBS.c.organisation == organisation, JOBS.c.request_id == request_id)
            ).one_or_none()
            if row is None:
                values = {
                    "id": str(ULID()),
                    "organisation": organisation,
                    "request_id": request_id,
                    "config": document,
                    "state": str(JobState.QUEUED),
                    "step": 0,
                    "iteration": 0,
                    "finetune_id": "",
                    "model": "",
                    "detail": "",
                    "results": "{}",
                    "created_at": now,
                    "updated_at": now,
                }
                connection.execute(sa.insert(JOBS).values(values))
                row = connection.execute(sa.select(JOBS).where(JOBS.c.id == values["id"])).one()
        if row.config != document:
            raise RequestIdReused(f"the request id {request_id!r} came before with another config; take a new id")
        return _job(row)

    def get(self, organisation: str, job_id: str) -> Job:
        """One job of an organisation."""
        with self._reading.connect() as connection:
            return _job(_row(connection, job_id, organisation))

    def list_jobs(self, organisation: str, limit: int, before_id: str = "", state: JobState | None = None) -> list[Job]:
        """Newest first; `before_id` continues after the last one of the page before."""
        query = sa.select(JOBS).where(JOBS.c.organisation == organisation).order_by(JOBS.c.id.desc()).limit(limit)
        if before_id:
            query = query.where(JOBS.c.id < before_id)
        if state is not None:
            query = query.where(JOBS.c.state == str(state))
        with self._reading.connect() as connection:
            return [_job(row) for row in connection.execute(query)]

    def order(self, organisation: str, job_id: str, order: Order, request_id: str) -> Job:
        """Carry out a user's order once; InvalidState if the job's state forbids it."""
        with self._engine.begin() as connection:
            row = _row(connection, job_id, organisation)
            key = (ORDERS.c.organisation == organisation) & (ORDERS.c.request_id == request_id)
            earlier = connection.execute(sa.select(ORDERS).where(key)).one_or_none()
            if earlier is not None:
                if (earlier.job_id, earlier.verb) != (job_id, str(order)):
                    raise RequestIdReused(f"the request id {request_id!r} came before with another order")
                return _job(row)
            goal = ordered(JobState(row.state), order)
            made = {"organisation": organisation, "request_id": request_id, "job_id": job_id, "verb": str(order)}
            connection.execute(sa.insert(ORDERS).values(**made, made_at=time.time()))
            _update(connection, job_id, {"state": str(goal), **({"detail": ""} if goal is JobState.QUEUED else {})})
            return _job(_row(connection, job_id, organisation))

    def move(
        self,
        job_id: str,
        after: JobState,
        *,
        detail: str = "",
        model: str | None = None,
        results: Mapping[str, float] | None = None,
    ) -> Job:
        """Take the machine's move to `after`; InvalidState if an order came in between and there is no such move."""
        changes: dict[str, object] = {"state": str(after), "detail": detail}
        if model is not None:
            changes["model"] = model
        if results is not None:
            changes["results"] = json.dumps(dict(results))
        with self._engine.begin() as connection:
            check_move(JobState(_row(connection, job_id).state), after)
            _update(connection, job_id, changes)
            return _job(_row(connection, job_id))

    def state(self, job_id: str) -> JobState:
        """The state alone: what the loop looks at between two steps."""
        with self._reading.connect() as connection:
            return JobState(_row(connection, job_id).state)

    def turn(self, job_id: str) -> Turn:
        """Where the loop goes on."""
        with self._reading.connect() as connection:
            row = _row(connection, job_id)
            return Turn(row.iteration, row.step)

    def set_finetune(self, job_id: str, finetune_id: str) -> None:
        """Note the finetune that the job trains."""
        with self._engine.begin() as connection:
            _update(connection, job_id, {"finetune_id": finetune_id})

    def set_detail(self, job_id: str, detail: str) -> None:
        """Note what the job waits for; "" when it waits for nothing."""
        with self._engine.begin() as connection:
            _update(connection, job_id, {"detail": detail})

    def record(
        self, job: Job, stage: str, message: str, metrics: Mapping[str, float], turn: Turn | None = None
    ) -> JobProgress:
        """Append a point to the history and, with `turn`, note in the same transaction that the turn is done."""
        with self._engine.begin() as connection:
            last = connection.execute(sa.select(sa.func.max(PROGRESS.c.sequence)).where(PROGRESS.c.job_id == job.id))
            if turn is not None:
                _update(connection, job.id, {"iteration": turn.iteration, "step": turn.step})
            values = {
                "job_id": job.id,
                "sequence": (last.scalar() or 0) + 1,
                "organisation": job.organisation,
                "step": _row(connection, job.id).step,
                "total_steps": job.config.steps,
                "stage": stage,
                "message": message,
                "metrics": json.dumps(dict(metrics)),
                "logged_at": time.time(),
            }
            connection.execute(sa.insert(PROGRESS).values(values))
            key = (PROGRESS.c.job_id == job.id) & (PROGRESS.c.sequence == values["sequence"])
            return _progress(connection.execute(sa.select(PROGRESS).where(key)).one())

    def progress(self, job_id: str, after: int = 0, limit: int = 1000) -> list[JobProgress]:
        """Points with a sequence number above `after`, oldest first."""
        query = (
            sa.select(PROGRESS)
            .where(PROGRESS.c.job_id == job_id, PROGRESS.c.sequence > after)
            .order_by(PROGRESS.c.sequence)
            .limit(limit)
        )
        with self._reading.connect() as connection:
            return [_progress(row) for row in connection.execute(query)]

    def waiting(self, limit: int = 100) -> list[Job]:
        """Queued jobs of all organisations, oldest first."""
        query = sa.select(JOBS).where(JOBS.c.state == str(JobState.QUEUED)).order_by(JOBS.c.id).limit(limit)
        with self._reading.connect() as connection:
            return [_job(row) for row in connection.execute(query)]

    def count_by_state(self) -> dict[JobState, int]:
        """How many jobs of all organisations are in each state that any is in."""
        query = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
        with self._reading.connect() as connection:
            return {JobState(row[0]): int(row[1]) for row in connection.execute(query)}

    def forget_old_orders(self) -> None:
        """Drop the request ids of orders older than 7 days. A job's own is part of the job and stays with it."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(ORDERS).where(ORDERS.c.made_at < time.time() - ORDERS_KEPT_S))

    def requeue_interrupted(self) -> Sequence[str]:
        """At the service's start: jobs that were under way are queued again, cancelling ones end. Returns their ids."""
        with self._engine.begin() as connection:
            found = connection.execute(
                sa.select(JOBS.c.id, JOBS.c.state).where(JOBS.c.state.in_([str(state) for state in UNDER_WAY]))
            ).all()
            for row in found:
                goal = JobState.CANCELLED if row.state == JobState.CANCELLING else JobState.QUEUED
                check_move(JobState(row.state), goal)
                _update(connection, row.id, {"state": str(goal)})
            return [row.id for row in found]


def _row(connection: sa.Connection, job_id: str, organisation: str | None = None) -> sa.Row[tuple[object, ...]]:
    query = sa.select(JOBS).where(JOBS.c.id == job_id)
    if organisation is not None:
        query = query.where(JOBS.c.organisation == organisation)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise JobNotFound(f"no job {job_id!r} here", metadata={"job_id": job_id})
    return row


def _update(connection: sa.Connection, job_id: str, changes: Mapping[str, object]) -> None:
    connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(**changes, updated_at=time.time()))


def _job(row: sa.Row[tuple[object, ...]]) -> Job:
    return Job(
        id=row.id,
        organisation=row.organisation,
        config=config_from_document(json.loads(row.config)),
        state=JobState(row.state),
        step=row.step,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        updated_at=datetime.fromtimestamp(row.updated_at, UTC),
        finetune_id=row.finetune_id,
        model=row.model,
        detail=row.detail,
        results=json.loads(row.results),
    )


def _progress(row: sa.Row[tuple[object, ...]]) -> JobProgress:
    return JobProgress(
        sequence=row.sequence,
        step=row.step,
        total_steps=row.total_steps,
        stage=row.stage,
        message=row.message,
        metrics=json.loads(row.metrics),
        logged_at=datetime.fromtimestamp(row.logged_at, UTC),
    )
