"""Clients of the jobs service: jobs and datasets."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moontune.api.jobs.v1 import dataset_service_pb2, job_pb2, job_service_pb2
from moontune.api.jobs.v1.dataset_service_pb2_grpc import DatasetServiceStub
from moontune.api.jobs.v1.job_service_pb2_grpc import JobServiceStub
from moontune.clients.request_ids import new_request_id
from moontune.clients.service_client import ServiceClient
from moontune.values.adapter import CHUNK_BYTES
from moontune.values.dataset import DatasetUpload, StoredDataset
from moontune.values.job import Job, JobConfig, JobProgress, JobState, Preset
from moontune.values.page import Page
from moontune.wire.checks import each
from moontune.wire.dataset import dataset_from_proto, dataset_upload_to_proto
from moontune.wire.job import (
    JOB_STATES,
    job_config_to_proto,
    job_event_from_proto,
    job_from_proto,
    preset_from_proto,
)

if TYPE_CHECKING:  # these classes exist in the stubs only
    from moontune.api.jobs.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from moontune.api.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

WATCH_DEADLINE_S = 24 * 3600.0
UPLOAD_DEADLINE_S = 3600.0


class JobClient(ServiceClient):
    """Async client of JobService."""

    @property
    def _stub(self) -> "JobServiceAsyncStub":
        return JobServiceStub(self._connection.channel)

    async def create_job(
        self, config: JobConfig, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> Job:
        """Queue a job."""
        request = job_service_pb2.CreateJobRequest(
            request_id=request_id or new_request_id(), config=job_config_to_proto(config)
        )
        return job_from_proto((await self._connection.unary(self._stub.CreateJob, request, deadline_s)).job)

    async def get_job(self, job_id: str, *, deadline_s: float | None = None) -> Job:
        """Read one job."""
        request = job_service_pb2.GetJobRequest(job_id=job_id)
        return job_from_proto((await self._connection.unary(self._stub.GetJob, request, deadline_s)).job)

    async def list_jobs(
        self,
        *,
        state: JobState | None = None,
        page_size: int = 0,
        page_token: str = "",
        deadline_s: float | None = None,
    ) -> Page[Job]:
        """A page of the organisation's jobs (in a state), newest first."""
        number = job_pb2.JOB_STATE_UNSPECIFIED if state is None else JOB_STATES.encode(state)
        request = job_service_pb2.ListJobsRequest(page_size=page_size, page_token=page_token, state=number)
        response = await self._connection.unary(self._stub.ListJobs, request, deadline_s)
        return Page(each("jobs", response.jobs, job_from_proto), response.next_page_token)

    async def cancel_job(self, job_id: str, *, request_id: str | None = None, deadline_s: float | None = None) -> Job:
        """End a job at its next step."""
        request = job_service_pb2.CancelJobRequest(request_id=request_id or new_request_id(), job_id=job_id)
        return job_from_proto((await self._connection.unary(self._stub.CancelJob, request, deadline_s)).job)

    async def pause_job(self, job_id: str, *, request_id: str | None = None, deadline_s: float | None = None) -> Job:
        """Hold a job at its next step."""
        request = job_service_pb2.PauseJobRequest(request_id=request_id or new_request_id(), job_id=job_id)
        return job_from_proto((await self._connection.unary(self._stub.PauseJob, request, deadline_s)).job)

    async def resume_job(self, job_id: str, *, request_id: str | None = None, deadline_s: float | None = None) -> Job:
        """Go on with a paused job."""
        request = job_service_pb2.ResumeJobRequest(request_id=request_id or new_request_id(), job_id=job_id)
        return job_from_proto((await self._connection.unary(self._stub.ResumeJob, request, deadline_s)).job)

    async def watch_job(
        self, job_id: str, *, after_sequence: int = 0, deadline_s: float = WATCH_DEADLINE_S
    ) -> AsyncGenerator[Job | JobProgress, None]:
        """The job, then its progress from after a sequence number on, live until it ends."""
        request = job_service_pb2.WatchJobRequest(job_id=job_id, after_sequence=after_sequence)
        stub = self._stub
        messages = self._connection.stream(
            lambda timeout, metadata: stub.WatchJob(request, timeout=timeout, metadata=metadata), deadline_s
        )
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield job_event_from_proto(message)

    async def list_presets(
        self, *, page_size: int = 0, page_token: str = "", deadline_s: float | None = None
    ) -> Page[Preset]:
        """A page of configs to start from."""
        request = job_service_pb2.ListPresetsRequest(page_size=page_size, page_token=page_token)
        response = await self._connection.unary(self._stub.ListPresets, request, deadline_s)
        return Page(each("presets", response.presets, preset_from_proto), response.next_page_token)


class DatasetClient(ServiceClient):
    """Async client of DatasetService (same address as JobService)."""

    @property
    def _stub(self) -> "DatasetServiceAsyncStub":
        return DatasetServiceStub(self._connection.channel)

    async def upload(
        self, upload: DatasetUpload, file: Path, *, deadline_s: float = UPLOAD_DEADLINE_S
    ) -> StoredDataset:
        """Send a file from `upload.offset_bytes` on; size_bytes 0 and an empty request_id are filled in."""
        size_bytes = upload.size_bytes or (await asyncio.to_thread(file.stat)).st_size
        header = replace(upload, size_bytes=size_bytes, request_id=upload.request_id or new_request_id())

        async def messages() -> AsyncIterator[dataset_service_pb2.UploadDatasetRequest]:
            yield dataset_service_pb2.UploadDatasetRequest(header=dataset_upload_to_proto(header))
            with file.open("rb") as content:
                content.seek(header.offset_bytes)
                while block := await asyncio.to_thread(content.read, CHUNK_BYTES):
                    yield dataset_service_pb2.UploadDatasetRequest(chunk=block)

        response = await self._connection.upload(self._stub.UploadDataset, messages, deadline_s)
        return dataset_from_proto(response.dataset)

    async def get_dataset(
        self, dataset_id: str = "", *, upload_request_id: str = "", deadline_s: float | None = None
    ) -> StoredDataset:
        """Read one dataset, by its id or by the request id of its upload."""
        request = dataset_service_pb2.GetDatasetRequest(dataset_id=dataset_id)
        if upload_request_id:
            request = dataset_service_pb2.GetDatasetRequest(upload_request_id=upload_request_id)
        response = await self._connection.unary(self._stub.GetDataset, request, deadline_s)
        return dataset_from_proto(response.dataset)

    async def list_datasets(
        self, *, page_size: int = 0, page_token: str = "", deadline_s: float | None = None
    ) -> Page[StoredDataset]:
        """A page of the organisation's datasets, newest first."""
        request = dataset_service_pb2.ListDatasetsRequest(page_size=page_size, page_token=page_token)
        response = await self._connection.unary(self._stub.ListDatasets, request, deadline_s)
        return Page(each("datasets", response.datasets, dataset_from_proto), response.next_page_token)

    async def delete_dataset(
        self, dataset_id: str, *, request_id: str | None = None, deadline_s: float | None = None
    ) -> None:
        """Delete a dataset's files."""
        request = dataset_service_pb2.DeleteDatasetRequest(
            request_id=request_id or new_request_id(), dataset_id=dataset_id
        )
        await self._connection.unary(self._stub.DeleteDataset, request, deadline_s)
