"""WatchFinetune: every step, save and number in order, at the reader's pace, through a restore, until the deletion."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import Draining, FinetuneNotFound, MoontuneError, ResourceExhausted, Unavailable
from moontune.values.finetune import (
    Checkpoint,
    CheckpointRef,
    Finetune,
    FinetuneEvent,
    LoraSettings,
    MetricPoint,
    NewFinetune,
    StepApplied,
)
from moontune.values.training import TrainStep
from tests.services.trainer.killed_run import GROUP
from tests.services.trainer.process import TrainerProcess

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("watched")
    running = TrainerProcess(folder / "base", folder / "data", "tests.services.trainer.small_learner")
    running.settings["most-watchers"] = "3"
    yield running.start()
    running.kill()


@pytest.fixture
async def client(small: TrainerProcess) -> AsyncIterator[TrainerClient]:
    async with TrainerClient(small.address, retry=RetryPolicy(attempts=1)) as client:
        yield client


@pytest.fixture
async def finetune(client: TrainerClient, request: pytest.FixtureRequest) -> Finetune:
    return await client.create_finetune(NewFinetune("", request.node.name, lora=LoraSettings(4)))


async def step(client: TrainerClient, finetune: Finetune, label: str) -> int:
    return (await client.train_step(TrainStep(finetune.id, "", (GROUP,), client_state=label.encode()))).step


def shown(event: FinetuneEvent) -> str:
    match event:
        case Finetune():
            return f"at {event.step}"
        case StepApplied():
            return f"step {event.step}"
        case Checkpoint():
            return f"saved {event.step}"
        case MetricPoint():
            return f"{event.name} {event.value:g}"


async def read(events: AsyncIterator[FinetuneEvent], count: int) -> list[str]:
    async with asyncio.timeout(30):
        return [shown(await anext(events)) for _ in range(count)]


async def test_events_come_as_they_happen(client: TrainerClient, finetune: Finetune) -> None:
    await step(client, finetune, "before")
    events = client.watch_finetune(finetune.id)
    first = await anext(events)
    assert first == await client.get_finetune(finetune.id)
    await step(client, finetune, "a")
    assert await read(events, 1) == ["step 2"]
    await client.log_metrics(finetune.id, [MetricPoint(2, "mine", 0.5, NOW), MetricPoint(2, "mine", 0.25, NOW)])
    assert await read(events, 2) == ["mine 0.5", "mine 0.25"]
    await client.save_checkpoint(finetune.id)
    assert await read(events, 1) == ["saved 2"]
    await step(client, finetune, "b")
    await client.restore_checkpoint(CheckpointRef(finetune.id, step=2))
    assert await read(events, 2) == ["step 3", "at 2"]
    applied = await step(client, finetune, "c")
    event = await anext(events)
    assert isinstance(event, StepApplied)
    assert (event.step, event.metrics["loss"]) == (applied, 1.0)
    await client.delete_finetune(finetune.id)
    with pytest.raises(FinetuneNotFound):
        await read(events, 1)


async def test_a_slow_reader_misses_nothing_and_what_was_before_can_be_read(
    client: TrainerClient, finetune: Finetune
) -> None:
    events = client.watch_finetune(finetune.id)
    assert await read(events, 1) == ["at 0"]
    expected: list[str] = []
    for number in range(5):
        assert await step(client, finetune, f"{number}") == number + 1
        points = [MetricPoint(number + 1, f"n{index}", float(number), NOW) for index in range(200)]
        await client.log_metrics(finetune.id, points)
        expected += [f"step {number + 1}", *(f"n{index} {number}" for index in range(200))]
    found = await read(events, len(expected))  # nothing was read meanwhile
    assert sorted(found) == sorted(expected)
    for prefix in ("step", "n7 "):
        assert [e for e in found if e.startswith(prefix)] == [e for e in expected if e.startswith(prefix)]
    later = client.watch_finetune(finetune.id, after_step=3)
    assert await read(later, 3) == ["at 5", "step 4", "step 5"]
    assert len(await read(later, 400)) == 400
    await events.aclose()
    await later.aclose()


async def test_watchers_are_limited_and_leave_their_place(client: TrainerClient, finetune: Finetune) -> None:
    watches = [client.watch_finetune(finetune.id) for _ in range(4)]
    for events in watches[:3]:
        assert await read(events, 1) == ["at 0"]
    with pytest.raises(ResourceExhausted, match="3 calls watch"):
        await read(watches[3], 1)
    await watches[0].aclose()
    async with asyncio.timeout(30):
        while True:
            again = client.watch_finetune(finetune.id)
            try:
                assert await read(again, 1) == ["at 0"]
                break
            except ResourceExhausted:
                await asyncio.sleep(0.01)
    for events in (*watches[1:3], again):
        await events.aclose()


async def test_a_watch_of_what_is_not_there(client: TrainerClient) -> None:
    with pytest.raises(FinetuneNotFound):
        await read(client.watch_finetune("01HZZZZZZZZZZZZZZZZZZZZZZZ"), 1)


async def test_a_stopping_trainer_ends_its_watches(tmp_path: Path) -> None:
    running = TrainerProcess(tmp_path / "base", tmp_path / "data", "tests.services.trainer.small_learner").start()
    async with TrainerClient(running.address, retry=RetryPolicy(attempts=1)) as client:
        finetune = await client.create_finetune(NewFinetune("", "watched", lora=LoraSettings(4)))
        events = client.watch_finetune(finetune.id)
        assert await read(events, 1) == ["at 0"]
        stopped = asyncio.create_task(asyncio.to_thread(running.stop))
        with pytest.raises(MoontuneError) as raised:
            await read(events, 1)
        assert isinstance(raised.value, Draining | Unavailable)
        assert await stopped == 0


async def test_the_time_to_publish_a_step_is_measured_once(
    small: TrainerProcess, client: TrainerClient, finetune: Finetune, tmp_path: Path
) -> None:
    before = published(small)
    await step(client, finetune, "a")
    for _ in range(2):  # a second reader of the same step is no publication
        await client.download_adapter(finetune.id, tmp_path / "now")
    await client.download_adapter(finetune.id, tmp_path / "then", step=0)
    assert published(small) == before + 1
    await step(client, finetune, "b")
    await client.download_adapter(finetune.id, tmp_path / "now")
    assert published(small) == before + 2


def published(small: TrainerProcess) -> float:
    page = httpx.get(f"http://127.0.0.1:{small.metrics_port}/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("moontune_policy_publish_seconds_count")]
    return float(lines[0].split()[1]) if lines else 0.0
