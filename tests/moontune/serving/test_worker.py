import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.context import SpawnProcess

import pytest

from moontune.errors import DeadlineExceeded, InvalidField, WorkerDied
from moontune.serving.call import RpcCall, RpcKind, set_current_call
from moontune.serving.worker import ModelWorker, RestartPolicy, WorkerSpec
from moontune.serving.worker_link import WorkerGone, WorkerLink
from moontune.serving.worker_protocol import ComponentFailure
from moontune.telemetry.logs import LogSettings
from tests.fakes import components


def spec(base: str = "fake") -> WorkerSpec:
    return WorkerSpec(
        base=base,
        components={"fake": f"{components.__name__}:build"},
        loader=f"{components.__name__}:load",
    )


@contextlib.asynccontextmanager
async def running(base: str = "fake"):
    worker = ModelWorker(spec(base), restart=RestartPolicy(first_s=0.05))
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def answer_an_rpc(remaining_s: float | None = None) -> None:
    deadline = None if remaining_s is None else time.monotonic() + remaining_s
    set_current_call(RpcCall("/a.B/C", RpcKind.UNARY, "ipv4:127.0.0.1:1", "request-7", {}, deadline))


async def test_calls_streams_and_errors_cross_the_pipe():
    async with running() as worker:
        assert worker.ready
        assert worker.facts == {"name": "fake", "digest": "sha256:fake", "device": "cpu"}
        assert await worker.call("fake", "add", 2, 3) == 5
        pid, _ = await worker.call("fake", "where")
        assert pid == worker.pid != os.getpid()
        assert [item async for item in worker.stream("fake", "count", 5)] == [0, 1, 2, 3, 4]
        with pytest.raises(InvalidField) as refused:
            await worker.call("fake", "refuse")
        assert refused.value.violations[0].field == "n"
        with pytest.raises(ComponentFailure, match=r"ValueError: a bug"):
            await worker.call("fake", "crash")
        with pytest.raises(ComponentFailure, match=r"no fake\.nothing"):
            await worker.call("fake", "nothing")
        with pytest.raises(ComponentFailure):
            await worker.call("fake", "unpicklable")
        with pytest.raises(ComponentFailure, match="arguments do not pickle"):
            await worker.call("fake", "add", lambda: 1, 2)
        assert await worker.call("fake", "add", 1, 1) == 2


async def test_a_slow_call_blocks_neither_the_loop_nor_immediate_methods():
    async with running() as worker:
        burning = asyncio.create_task(worker.call("fake", "burn", 2.0))
        await asyncio.sleep(0.1)
        assert await worker.call("fake", "status") == "fine"
        assert not burning.done()
        assert await burning > 0


async def test_cancellation_reaches_the_component(tmp_path):
    mark = tmp_path / "noticed"
    async with running() as worker:
        waiting = asyncio.create_task(worker.call("fake", "wait", str(mark)))
        await until(lambda: (tmp_path / "noticed.begun").exists())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(mark.exists, 2.0)
        assert await worker.call("fake", "add", 1, 2) == 3  # the thread is free again


async def test_leaving_a_stream_cancels_it(tmp_path):
    mark = tmp_path / "noticed"
    async with running() as worker:
        async with contextlib.aclosing(worker.stream("fake", "wait", str(mark))) as items:
            assert await anext(items) == "begun"
        await until(mark.exists, 2.0)


async def test_the_deadline_and_request_id_of_the_rpc_travel_along(tmp_path):
    mark = tmp_path / "noticed"
    async with running() as worker:

        async def rpc() -> None:
            answer_an_rpc(remaining_s=30.0)
            request_id, remaining_s = await worker.call("fake", "seen")
            assert request_id == "request-7"
            assert 25.0 < remaining_s <= 30.0
            answer_an_rpc(remaining_s=0.2)
            with pytest.raises(DeadlineExceeded):
                await worker.call("fake", "wait", str(mark))

        await asyncio.create_task(rpc())
        await until(mark.exists, 2.0)


async def test_a_killed_worker_fails_pending_calls_and_comes_back(tmp_path):
    async with running() as worker:
        changes: list[bool] = []
        worker.watch(changes.append)
        first = worker.pid
        pending = asyncio.create_task(worker.call("fake", "wait", str(tmp_path / "a")))
        queued = asyncio.create_task(worker.call("fake", "add", 1, 2))
        await until(lambda: (tmp_path / "a.begun").exists())
        os.kill(first, signal.SIGKILL)
        for task in (pending, queued):
            with pytest.raises(WorkerDied) as died:
                await task
            assert died.value.retry_after_s is not None
        assert await worker.call("fake", "add", 1, 2) == 3
        assert worker.pid != first
        assert changes == [False, True]
        assert worker.restarts == 1
        with pytest.raises(WorkerDied, match="exit code 9"):
            await worker.call("fake", "die")


async def test_a_base_that_cannot_be_loaded_fails_the_start_with_its_own_error():
    worker = ModelWorker(spec("missing"))
    with pytest.raises(InvalidField, match="base is 'missing'"):
        await worker.start()
    await worker.stop()


@pytest.mark.parametrize(("method", "arguments"), [("spoilt", ()), ("add", (components.Spoilt(), 1))])
async def test_a_message_that_does_not_unpickle_fails_the_call_instead_of_hanging_it(method, arguments):
    async with running() as worker:
        async with asyncio.timeout(10):
            with pytest.raises(WorkerDied):
                await worker.call("fake", method, *arguments)
            await until(lambda: worker.ready)
            assert await worker.call("fake", "add", 1, 1) == 2


async def test_the_exit_code_is_told_though_another_thread_reaps_the_process():
    """Any start of a process polls every child; the poll that reaps ours may be another thread's, mid-way."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            multiprocessing.active_children()

    threads = [threading.Thread(target=poll, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            link = WorkerLink(spec(), LogSettings(), lambda reply: None)
            await link.spawn()
            await link.ready
            link.kill()
            assert await asyncio.wait_for(link.dead, 30) == -signal.SIGKILL
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch):
    real, refusals = SpawnProcess.start, []

    def start(process):
        if len(refusals) < 2:
            refusals.append(process)
            raise OSError(12, "Cannot allocate memory")
        real(process)

    async with running() as worker:
        pid = worker.pid
        monkeypatch.setattr(SpawnProcess, "start", start)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: worker.ready and worker.pid != pid)
        assert len(refusals) == 2
        assert await worker.call("fake", "add", 1, 1) == 2


async def test_a_first_process_that_cannot_be_started_says_why(monkeypatch):
    def start(process):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(WorkerGone, match="Cannot allocate memory"):
        await ModelWorker(spec()).start()


def test_the_backoff_doubles_up_to_its_most():
    policy = RestartPolicy(first_s=0.5, most_s=3.0)
    assert [policy.wait_s(deaths) for deaths in (1, 2, 3, 4, 50)] == [0.5, 1.0, 2.0, 3.0, 3.0]
