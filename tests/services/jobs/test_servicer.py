"""JobService over a real channel, its loop over the toy peers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from moontune.clients.jobs import DatasetClient, JobClient
from moontune.clients.retry import NO_RETRY
from moontune.errors import InvalidField, InvalidState, JobNotFound, NotImplementedYet, RequestIdReused
from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, opened
from moontune.values.job import DatasetSource, Job, JobProgress, JobState
from services.jobs.config import JobsSettings
from services.jobs.servicer import build_with
from tests.services.jobs.toy import ToyPeers, config


@pytest.fixture
async def chassis(tmp_path: Path) -> AsyncIterator[Chassis]:
    settings = JobsSettings(port=0, database=f"sqlite:///{tmp_path}/jobs.db", data_dir=tmp_path / "jobs")

    async def start(chassis):
        await build_with(chassis, settings, ToyPeers())

    async with opened([ServiceApp("jobs", settings, start)]) as [chassis]:
        yield chassis


@pytest.fixture
def address(chassis: Chassis) -> str:
    return f"127.0.0.1:{chassis.port}"


@pytest.fixture
async def client(address: str) -> AsyncIterator[JobClient]:
    async with JobClient(address, retry=NO_RETRY) as client:
        yield client


async def watched(client: JobClient, job_id: str, after: int = 0) -> list[Job | JobProgress]:
    return [event async for event in client.watch_job(job_id, after_sequence=after)]


async def test_create_watch_and_read(client: JobClient, tmp_path: Path):
    job = await client.create_job(config(tmp_path / "data"))
    assert job.organisation == "local"
    events = await watched(client, job.id)
    first, last = events[0], events[-1]
    assert isinstance(first, Job)
    assert isinstance(last, Job)
    assert last.state is JobState.SUCCEEDED
    points = [event for event in events if isinstance(event, JobProgress)]
    assert [point.sequence for point in points] == list(range(1, len(points) + 1))
    again = [event.sequence for event in await watched(client, job.id, after=3) if isinstance(event, JobProgress)]
    assert again == list(range(4, len(points) + 1))
    assert await client.get_job(job.id) == last
    assert (await client.list_jobs(state=JobState.SUCCEEDED)).items == (last,)
    assert (await client.list_jobs(state=JobState.FAILED)).items == ()


async def test_metrics_count_steps_and_states(address: str, client: JobClient, tmp_path: Path, chassis: Chassis):
    job = await client.create_job(config(tmp_path / "data"))
    await watched(client, job.id)
    await asyncio.sleep(0.6)
    async with httpx.AsyncClient(trust_env=False) as http:
        page = (await http.get(f"http://127.0.0.1:{chassis.metrics_port}/metrics")).text
    assert "moontune_job_steps_total 6.0" in page
    assert 'moontune_jobs{state="succeeded"} 1.0' in page
    assert 'moontune_job_phase_seconds_count{phase="train"}' in page


async def test_pages(client: JobClient, tmp_path: Path):
    order = config(tmp_path / "data", steps=1)
    ids = [(await client.create_job(order)).id for _ in range(3)]
    page = await client.list_jobs(page_size=2)
    rest = await client.list_jobs(page_size=2, page_token=page.next_page_token)
    assert [job.id for job in (*page.items, *rest.items)] == ids[::-1]
    assert rest.next_page_token == ""


async def test_a_request_sent_twice_makes_one_job(client: JobClient, tmp_path: Path):
    order = config(tmp_path / "data", steps=1)
    first = await client.create_job(order, request_id="r")
    assert (await client.create_job(order, request_id="r")).id == first.id
    with pytest.raises(RequestIdReused):
        await client.create_job(config(tmp_path / "data", steps=2), request_id="r")


async def test_bad_input_names_the_field(client: JobClient, tmp_path: Path):
    with pytest.raises(InvalidField) as caught:
        await client.create_job(config(tmp_path / "data", rollouts_per_group=1, groups_per_step=999))
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {"config.groups_per_step", "config.rollouts_per_group"}
    with pytest.raises(InvalidField, match="absolute path"):
        await client.create_job(config(tmp_path / "data", train=DatasetSource("here.json")))
    with pytest.raises(NotImplementedYet):
        await client.create_job(config(tmp_path / "data", train=DatasetSource("s3://bucket/x.json")))
    with pytest.raises(InvalidField, match="ULID"):
        await client.get_job("7")
    with pytest.raises(JobNotFound):
        await client.get_job("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    with pytest.raises(InvalidField, match="page_size"):
        await client.list_jobs(page_size=1001)


async def test_orders(client: JobClient, tmp_path: Path):
    job = await client.create_job(config(tmp_path / "data", steps=100_000))
    await client.pause_job(job.id)
    assert (await client.get_job(job.id)).state is JobState.PAUSED
    assert (await client.resume_job(job.id)).state is JobState.QUEUED
    assert (await client.cancel_job(job.id)).state in (JobState.CANCELLING, JobState.CANCELLED)
    last = (await watched(client, job.id))[-1]
    assert isinstance(last, Job)
    assert last.state is JobState.CANCELLED
    with pytest.raises(InvalidState):
        await client.resume_job(job.id)


async def test_what_is_not_built_says_so(client: JobClient, address: str):
    with pytest.raises(NotImplementedYet):
        await client.list_presets()
    async with DatasetClient(address, retry=NO_RETRY) as datasets:
        with pytest.raises(NotImplementedYet):
            await datasets.list_datasets()


async def test_health_is_ready(address: str):
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
        )
        assert await check(b"", timeout=5) == b"\x08\x01"


@pytest.mark.parametrize(("path", "ok"), [("inside/a.json", True), ("outside/a.json", False), ("inside/../x", False)])
def test_roots_hold_data_sets_in(tmp_path: Path, path: str, ok: bool):
    from services.jobs.sources import check_source

    source = DatasetSource(f"{tmp_path}/{path}")
    if ok:
        check_source(source, [tmp_path / "inside"], "train", loopback=False)
    else:
        with pytest.raises(InvalidField, match="below"):
            check_source(source, [tmp_path / "inside"], "train", loopback=True)
    with pytest.raises(InvalidField, match="dataset_roots"):
        check_source(source, [], "train", loopback=False)
