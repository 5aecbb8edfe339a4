"""Runs queued jobs, at most so many at a time, and carries on by itself after any restart.

The queue is the database: whoever starts (this process after kill -9, say) queues again what was under way.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from moontune.auth.context import set_principal
from moontune.errors import InvalidState, MoontuneError
from moontune.telemetry import names
from moontune.telemetry.logs import get_logger
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.job import Job, JobState
from moontune.values.principal import Principal, Scope
from services.jobs.folder import JobFolder
from services.jobs.loop import Interrupted, JobRun, run_job
from services.jobs.peers import Peers
from services.jobs.store import JobStore

POLL_S = 0.25
STOP_S = 20.0
FORGET_S = 3600.0
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 15.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """most_running: jobs at a time. patience_s: how long a job waits for a service that does not answer."""

    folder: Path
    most_running: int = 1
    patience_s: float = 600.0


class JobRunner:
    """Takes queued jobs, oldest first; each runs in the name of its organisation."""

    def __init__(
        self, store: JobStore, peers: Peers, settings: RunnerSettings, metrics: ServiceMetrics | None = None
    ) -> None:
        self._metrics = metrics or ServiceMetrics()
        self._store = store
        self._peers = peers
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._forgot_at: float | None = None

    async def run(self) -> None:
        """Until cancelled."""
        for job_id in await asyncio.to_thread(self._store.requeue_interrupted):
            log.info("job taken up again", job_id=job_id)
        while not self._stopping:
            try:
                await self._start_waiting()
                await self._count_states()
                await self._forget()
            except Exception:  # a database that is away for a moment must not end the queue
                log.exception("the queue could not be read; trying again")
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Let every job end the step in flight, 20 s at most; the next start carries on."""
        self._stopping = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=STOP_S)
            for task in late:
                task.cancel()

    async def _count_states(self) -> None:
        counts = await asyncio.to_thread(self._store.count_by_state)
        for state in JobState:
            self._metrics.gauge(names.JOBS, state=state).set(counts.get(state, 0))

    async def _forget(self) -> None:
        """Once an hour."""
        now = asyncio.get_running_loop().time()
        if self._forgot_at is None or now - self._forgot_at > FORGET_S:
            await asyncio.to_thread(self._store.forget_old_orders)
            self._forgot_at = now

    async def _start_waiting(self) -> None:
        self._tasks = {job_id: task for job_id, task in self._tasks.items() if not task.done()}
        free = self._settings.most_running - len(self._tasks)
        if free <= 0:
            return
        waiting = await asyncio.to_thread(self._store.waiting)
        # A job that was paused and resumed at once may still be ending its step under its old task.
        for job in [job for job in waiting if job.id not in self._tasks][:free]:
            self._tasks[job.id] = asyncio.create_task(self._run_one(job), name=f"job {job.id}")

    async def _run_one(self, job: Job) -> None:
        folder = JobFolder(self._settings.folder / job.id)
        run = JobRun(job, self._store, self._peers, folder, lambda: self._stopping, self._metrics)
        set_principal(Principal(job.organisation, frozenset(Scope), internal=True))
        try:
            await self._begin(job)
            await self._patiently(run)
        except Interrupted:
            await self._settle(run)
        except MoontuneError as error:
            await self._fail(run, error.message)
        except Exception:
            log.exception("job failed by a bug of ours", job_id=job.id)
            await self._fail(run, "a bug of moontune's; the jobs service's log has the trace under this job's id")

    async def _begin(self, job: Job) -> None:
        try:
            await asyncio.to_thread(self._store.move, job.id, JobState.VALIDATING)
        except InvalidState:  # paused or cancelled since it was seen in the queue
            raise Interrupted from None

    async def _patiently(self, run: JobRun) -> None:
        """Run; while a service it needs is away, wait and go on from the last acknowledged step."""
        clock = asyncio.get_running_loop()
        pause_s, away_since, known = FIRST_PAUSE_S, None, await self._progress(run)
        while True:
            try:
                return await run_job(run)
            except MoontuneError as error:
                now, progress = clock.time(), await self._progress(run)
                if progress != known:
                    pause_s, away_since, known = FIRST_PAUSE_S, None, progress
                away_since = now if away_since is None else away_since
                if not error.retryable or now - away_since > self._settings.patience_s:
                    raise
                await self._wait(run, error, pause_s)
                pause_s = min(MOST_PAUSE_S, pause_s * 2)

    async def _wait(self, run: JobRun, error: MoontuneError, pause_s: float) -> None:
        log.warning("job waits", job_id=run.job.id, reason=error.reason, message=error.message, pause_s=pause_s)
        await asyncio.to_thread(self._store.set_detail, run.job.id, f"waiting: {error.message}")
        await asyncio.sleep(pause_s)
        state = await asyncio.to_thread(self._store.state, run.job.id)
        if self._stopping or state not in (JobState.VALIDATING, JobState.RUNNING):
            raise Interrupted
        await asyncio.to_thread(self._store.set_detail, run.job.id, "")

    async def _progress(self, run: JobRun) -> int:
        return (await asyncio.to_thread(self._store.turn, run.job.id)).iteration

    async def _settle(self, run: JobRun) -> None:
        """After an interruption: a cancelled job ends now; a paused or queued one stays as it is."""
        if await asyncio.to_thread(self._store.state, run.job.id) is JobState.CANCELLING:
            await asyncio.to_thread(self._store.move, run.job.id, JobState.CANCELLED)

    async def _fail(self, run: JobRun, reason: str) -> None:
        try:
            await asyncio.to_thread(self._store.move, run.job.id, JobState.FAILED, detail=reason)
            await asyncio.to_thread(self._store.record, run.job, "failed", reason, {})
        except InvalidState:
            await self._settle(run)
