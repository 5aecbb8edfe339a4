"""JobService and DatasetService on the chassis: convert, call, convert."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from moontune.api.jobs.v1 import dataset_service_pb2 as dataset_pb
from moontune.api.jobs.v1 import dataset_service_pb2_grpc, job_service_pb2_grpc
from moontune.api.jobs.v1 import job_service_pb2 as pb
from moontune.auth.context import current_principal
from moontune.errors import Draining, NotImplementedYet
from moontune.serving.chassis import Chassis
from moontune.serving.database import open_database
from moontune.values.job import ENDED_STATES, Job
from moontune.wire.checks import request_id
from moontune.wire.job import job_progress_to_proto, job_to_proto
from services.jobs.client_peers import ClientPeers
from services.jobs.config import JobsSettings
from services.jobs.convert import after_sequence_from, job_id_from, new_job_from, page_from
from services.jobs.peers import Peers
from services.jobs.runner import JobRunner, RunnerSettings
from services.jobs.sources import check_source
from services.jobs.states import Order
from services.jobs.store import JobStore

MIGRATIONS = Path(__file__).parent / "migrations"
WATCH_POLL_S = 0.2
"""How often a watch looks for news; another replica may write them, so the database is asked."""


async def build(chassis: Chassis, settings: JobsSettings) -> None:
    """Register the services and start the runner."""
    peers = ClientPeers(settings)
    chassis.on_stop(peers.close)
    await build_with(chassis, settings, peers)


async def build_with(chassis: Chassis, settings: JobsSettings, peers: Peers) -> None:
    """`build` over any peers."""
    engine = await asyncio.to_thread(open_database, settings.database, MIGRATIONS)
    store = JobStore(engine)
    limits = RunnerSettings(settings.data_dir, settings.running_max, settings.patience_s)
    runner = JobRunner(store, peers, limits, chassis.metrics)
    chassis.add(job_service_pb2_grpc.add_JobServiceServicer_to_server, JobServicer(store, settings, chassis.draining))
    chassis.add(dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server, DatasetServicer())
    chassis.spawn(runner.run(), "job runner")
    chassis.on_stop(runner.stop)


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """Jobs of the caller's organisation."""

    def __init__(self, store: JobStore, settings: JobsSettings, draining: asyncio.Event) -> None:
        self._store = store
        self._settings = settings
        self._draining = draining

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.CreateJobResponse:  # noqa: N802
        """Queue a job."""
        config, order_id = new_job_from(request)
        roots, loopback = self._settings.dataset_roots, self._settings.loopback
        for name, source in (("train", config.train), ("held_out", config.held_out)):
            await asyncio.to_thread(check_source, source, roots, f"config.{name}", loopback=loopback)
        job = await asyncio.to_thread(self._store.create, _organisation(), config, order_id)
        return pb.CreateJobResponse(job=job_to_proto(job))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:  # noqa: N802
        """Read one job."""
        return pb.GetJobResponse(job=job_to_proto(await self._get(job_id_from(request.job_id))))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:  # noqa: N802
        """List jobs, newest first."""
        size, before, state = page_from(request)
        jobs = await asyncio.to_thread(self._store.list_jobs, _organisation(), size + 1, before, state)
        token = jobs[size - 1].id if len(jobs) > size else ""
        return pb.ListJobsResponse(jobs=[job_to_proto(job) for job in jobs[:size]], next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:  # noqa: N802
        """End a job after the step in flight."""
        return pb.CancelJobResponse(job=job_to_proto(await self._order(request, Order.CANCEL)))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Any) -> pb.PauseJobResponse:  # noqa: N802
        """Stop a job after the step in flight until it is resumed."""
        return pb.PauseJobResponse(job=job_to_proto(await self._order(request, Order.PAUSE)))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Any) -> pb.ResumeJobResponse:  # noqa: N802
        """Continue a paused or failed job."""
        return pb.ResumeJobResponse(job=job_to_proto(await self._order(request, Order.RESUME)))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:  # noqa: N802
        """Send the job, its history from `after_sequence` on, and what happens until it ends."""
        job_id, after = job_id_from(request.job_id), after_sequence_from(request)
        shown: Job | None = None
        while True:
            # The job is read before its history, so that a job seen ended has its whole history behind it.
            job = await self._get(job_id)
            if shown is None or (job.state, job.detail) != (shown.state, shown.detail):
                if shown is None or job.state not in ENDED_STATES:
                    yield pb.WatchJobResponse(job=job_to_proto(job))
                shown = job
            points = await asyncio.to_thread(self._store.progress, job_id, after)
            for point in points:
                after = point.sequence
                yield pb.WatchJobResponse(progress=job_progress_to_proto(point))
            if job.state in ENDED_STATES and not points:
                yield pb.WatchJobResponse(job=job_to_proto(job))
                return
            if self._draining.is_set():
                raise Draining("the jobs service is stopping; the job goes on when it starts again")
            await asyncio.sleep(0.0 if points else WATCH_POLL_S)

    async def ListPresets(self, request: pb.ListPresetsRequest, context: Any) -> pb.ListPresetsResponse:  # noqa: N802
        """Not built yet."""
        raise NotImplementedYet("presets are not built yet; write the config by hand (docs: `moontune train`)")

    async def _get(self, job_id: str) -> Job:
        return await asyncio.to_thread(self._store.get, _organisation(), job_id)

    async def _order(
        self, request: pb.CancelJobRequest | pb.PauseJobRequest | pb.ResumeJobRequest, order: Order
    ) -> Job:
        job_id, order_id = job_id_from(request.job_id), request_id(request.request_id)
        return await asyncio.to_thread(self._store.order, _organisation(), job_id, order, order_id)


class DatasetServicer(dataset_service_pb2_grpc.DatasetServiceServicer):
    """Uploaded data sets are not built yet; jobs read paths on the service's machine."""

    async def UploadDataset(  # noqa: N802
        self, request_iterator: AsyncIterator[dataset_pb.UploadDatasetRequest], context: Any
    ) -> dataset_pb.UploadDatasetResponse:
        """Not built yet."""
        raise _no_datasets()

    async def GetDataset(self, request: dataset_pb.GetDatasetRequest, context: Any) -> dataset_pb.GetDatasetResponse:  # noqa: N802
        """Not built yet."""
        raise _no_datasets()

    async def ListDatasets(  # noqa: N802
        self, request: dataset_pb.ListDatasetsRequest, context: Any
    ) -> dataset_pb.ListDatasetsResponse:
        """Not built yet."""
        raise _no_datasets()

    async def DeleteDataset(  # noqa: N802
        self, request: dataset_pb.DeleteDatasetRequest, context: Any
    ) -> dataset_pb.DeleteDatasetResponse:
        """Not built yet."""
        raise _no_datasets()


def _organisation() -> str:
    return current_principal().organisation


def _no_datasets() -> NotImplementedYet:
    return NotImplementedYet(
        "data set uploads are not built yet; name a path on the jobs service's machine in the config"
    )
