import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from moontune.auth.context import current_principal, set_principal
from moontune.clients.errors import from_rpc_error
from moontune.errors import Draining, Unavailable, WorkerDied
from moontune.serving.call import current_call
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import ServiceSettings, StartupError
from moontune.serving.worker import WorkerSpec
from moontune.telemetry import names
from moontune.telemetry.deadline import current_deadline
from moontune.values.principal import Principal
from tests.fakes import components
from tests.fakes.chassis import NOT_SERVING, SERVING, echoing, free_port, health_of, until
from tests.fakes.echo import KINDS, SERVICE, EchoStub

WORKER = WorkerSpec(
    base="fake", components={"fake": f"{components.__name__}:build"}, loader=f"{components.__name__}:load"
)


async def echo(chassis, text: str) -> str:
    return text


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_rpc_answers_and_is_counted(kind):
    async with echoing(echo) as (chassis, stub, _):
        assert await stub.call(kind, "hello", timeout=5) == "hello"
        types = {
            "Unary": "unary",
            "ServerStream": "server_stream",
            "ClientStream": "client_stream",
            "Bidi": "bidi_stream",
        }
        labels = {"grpc_type": types[kind], "grpc_service": SERVICE, "grpc_method": kind}
        value = chassis.metrics.value
        await until(lambda: value(names.GRPC_HANDLED, **labels, grpc_code="OK") == 1.0)
        assert value(names.GRPC_STARTED, **labels) == 1.0
        assert value(names.GRPC_RECEIVED, **labels) == 1.0
        assert value(names.GRPC_SENT, **labels) == (2.0 if kind == "ServerStream" else 1.0)
        assert value(names.GRPC_SECONDS, **labels) == 1.0
        assert value(names.IN_FLIGHT) == 0.0


async def test_the_metrics_page_shows_go_grpc_prometheus_names():
    async with echoing(echo) as (chassis, stub, _):
        await stub.call("Unary", "x", timeout=5)
        url = f"http://127.0.0.1:{chassis.metrics_port}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert f'grpc_server_handled_total{{grpc_code="OK",grpc_method="Unary",grpc_service="{SERVICE}"' in page
        assert "grpc_server_handling_seconds_bucket" in page
        assert "moontune_ready 1.0" in page


async def test_health_and_reflection_name_the_service():
    async with echoing(echo) as (_, _, channel):
        for name in ("", "liveness", SERVICE):
            assert await health_of(channel, name) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health_of(channel, "other")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

        async def requests():
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for reply in stub.ServerReflectionInfo(requests(), timeout=5):
            assert SERVICE in {service.name for service in reply.list_services_response.service}


async def test_an_unknown_method_is_unimplemented():
    async with echoing(echo) as (_, _, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_callers_request_id_is_kept_and_an_insane_one_is_not():
    async def request_id(chassis, text: str) -> str:
        return current_call().request_id

    async with echoing(request_id) as (_, stub, _):
        assert await stub.call("Unary", "", metadata=(("x-request-id", "abc-1"),), timeout=5) == "abc-1"
        made = await stub.call("Unary", "", metadata=(("x-request-id", "a b c"),), timeout=5)
        assert len(made) == 32


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_and_a_leaving_caller_end_the_handler(kind):
    begun: list[str] = []
    ended: list[str] = []

    async def wait(chassis, text: str) -> str:
        begun.append(text)
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(text)
        return text

    async with echoing(wait) as (chassis, stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.call(kind, "deadline", timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        calling = asyncio.create_task(stub.call(kind, "left", timeout=30))
        await until(lambda: "left" in begun)
        calling.cancel()
        await until(lambda: ended == ["deadline", "left"])
        await until(lambda: chassis.metrics.value(names.IN_FLIGHT) == 0.0)


async def test_drain_tells_health_first_then_refuses_and_waits_for_calls_under_way():
    release = asyncio.Event()

    async def wait(chassis, text: str) -> str:
        if text == "slow":
            await release.wait()
        return text

    stopped: list[bool] = []
    settings = ServiceSettings(drain_delay_s=0.3, drain_grace_s=10)
    async with echoing(wait, settings) as (chassis, stub, channel):

        async def stop() -> None:
            stopped.append(release.is_set())

        chassis.on_stop(stop)
        slow = asyncio.create_task(stub.call("Unary", "slow", timeout=20))
        await until(lambda: chassis.metrics.value(names.IN_FLIGHT) == 1.0)
        draining = asyncio.create_task(chassis.drain())
        await until(lambda: chassis.draining.is_set())
        await asyncio.sleep(0.05)
        assert await health_of(channel) == NOT_SERVING
        assert await health_of(channel, SERVICE) == NOT_SERVING
        assert await health_of(channel, "liveness") == SERVING
        assert await stub.call("Unary", "still taken", timeout=5) == "still taken"
        await asyncio.sleep(0.4)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.call("Unary", "too late", timeout=5)
        error = from_rpc_error(refused.value)
        assert type(error) is Draining
        assert error.retry_after_s is not None
        assert not draining.done()
        release.set()
        assert await slow == "slow"
        await asyncio.wait_for(draining, 5)
        assert stopped == [True]


async def test_drain_cuts_off_what_outlasts_the_grace():
    async def forever(chassis, text: str) -> str:
        await asyncio.sleep(60)
        return text

    async with echoing(forever, ServiceSettings(drain_grace_s=0.2)) as (chassis, stub, _):
        slow = asyncio.create_task(stub.call("Unary", "slow", timeout=20))
        await until(lambda: chassis.metrics.value(names.IN_FLIGHT) == 1.0)
        started = time.monotonic()
        await chassis.drain()
        assert time.monotonic() - started < 3.0
        with pytest.raises(grpc.aio.AioRpcError):
            await slow


async def test_a_port_that_is_taken_is_a_clear_error():
    async with echoing(echo) as (chassis, _, _):
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{chassis.port}"):
            async with echoing(echo, ServiceSettings(port=chassis.port, metrics_port=0)):
                pass
        with pytest.raises(StartupError, match=f"metrics on 127.0.0.1:{chassis.metrics_port}"):
            async with echoing(echo, ServiceSettings(port=free_port(), metrics_port=chassis.metrics_port)):
                pass


async def work(chassis, text: str) -> str:
    method, _, argument = text.partition(" ")
    arguments = {"burn": lambda: (float(argument),), "add": lambda: (1, 2), "wait": lambda: (argument,)}[method]()
    return str(await chassis.worker.call("fake", method, *arguments))


async def test_health_answers_within_100_ms_while_the_worker_burns():
    async with echoing(work, worker=WORKER) as (chassis, stub, channel):
        await health_of(channel)
        burning = asyncio.create_task(stub.call("Unary", "burn 1.5", timeout=20))
        await until(lambda: chassis.metrics.value(names.IN_FLIGHT) == 1.0)
        seconds = []
        while not burning.done():
            started = time.monotonic()
            assert await health_of(channel) == SERVING
            seconds.append(time.monotonic() - started)
            await asyncio.sleep(0.02)
        await burning
        assert len(seconds) > 10
        assert sorted(seconds)[int(len(seconds) * 0.8)] < 0.1  # the rest is left to a crowded machine


async def test_a_killed_worker_fails_the_call_and_the_next_one_works_on_the_same_port(tmp_path):
    async with echoing(work, worker=WORKER) as (chassis, stub, channel):
        await until(lambda: chassis.ready)
        mark = tmp_path / "mark"
        pending = asyncio.create_task(stub.call("Unary", f"wait {mark}", timeout=20))
        await until((tmp_path / "mark.begun").exists)
        os.kill(chassis.worker.pid, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as died:
            await pending
        assert type(from_rpc_error(died.value)) is WorkerDied
        assert await health_of(channel, "liveness") == SERVING
        assert await health_of(channel) == NOT_SERVING
        assert await stub.call("Unary", "add", timeout=20) == "3"

        async def serving() -> bool:
            return await health_of(channel) == SERVING

        await until(serving)
        assert chassis.metrics.value(names.WORKER_RESTARTS) == 1.0


async def test_a_callers_leaving_reaches_the_component_through_the_rpc(tmp_path):
    mark = tmp_path / "mark"
    async with echoing(work, worker=WORKER) as (_, stub, _):
        calling = asyncio.create_task(stub.call("Unary", f"wait {mark}", timeout=20))
        await until((tmp_path / "mark.begun").exists)
        calling.cancel()
        await until(mark.exists)


async def test_a_failing_build_closes_what_was_opened():
    async def build(chassis) -> None:
        raise StartupError("no")

    with pytest.raises(StartupError, match="no"):
        async with opened([ServiceApp("echo", ServiceSettings(), build)]):
            pass


async def test_one_failing_stop_does_not_keep_the_others_from_running(capfd):
    stopped = []

    async def build(chassis) -> None:
        async def first() -> None:
            stopped.append("first")

        async def broken() -> None:
            raise OSError("disk gone")

        chassis.on_stop(first)
        chassis.on_stop(broken)

    async with opened([ServiceApp("echo", ServiceSettings(), build)]) as [chassis]:
        port = chassis.metrics_port
        await chassis.drain()
    assert stopped == ["first"]
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_waits_for_work_cancelled_elsewhere_answers_at_once(kind):
    async def answer(chassis, text: str) -> str:
        shared = asyncio.get_running_loop().create_future()
        shared.cancel()
        return await shared

    async with echoing(answer) as (_, stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.call(kind, "x", timeout=5)
    assert type(from_rpc_error(caught.value)) is Unavailable


async def test_background_work_does_not_inherit_the_rpc_that_spawned_it():
    seen = []

    async def work() -> None:
        seen.append((current_call(), current_deadline(), current_principal().organisation))

    async def answer(chassis, text: str) -> str:
        set_principal(Principal("acme", frozenset()))
        chassis.spawn(work(), "work")
        return text

    async with echoing(answer) as (_, stub, _):
        await stub.call("Unary", "x", timeout=5)
        await until(lambda: bool(seen))
    assert seen == [(None, None, "local")]


MAIN = """
import os
from moontune.serving.server import run
from moontune.serving.settings import ServiceSettings
from moontune.serving.worker import WorkerSpec
from tests.fakes.echo import EchoServicer, add_to_server

def worker(settings):
    fakes = "tests.fakes.components"
    return WorkerSpec(os.environ["BASE"], components={"fake": f"{fakes}:build"}, loader=f"{fakes}:load")

async def build(chassis, settings):
    async def answer(text):
        return str(await chassis.worker.call("fake", "where"))
    chassis.add(add_to_server, EchoServicer(answer))

run("echo", ServiceSettings, build, worker if "BASE" in os.environ else None)
"""


def start_main(*flags: str, base: str = "") -> subprocess.Popen:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())} | ({"BASE": base} if base else {})
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *flags], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_the_process_and_it_exits_with_0(number):
    port = free_port()
    process = start_main("--port", str(port), "--metrics-port", "0", "--internal-token", "hush")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            assert await health_of(channel) == SERVING
        process.send_signal(number)
        _, log = await asyncio.to_thread(process.communicate, timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert '"event": "stopped"' in log
    assert "hush" not in log
    assert '"internal_token"' in log


def test_a_wrong_setting_ends_the_process_with_a_clear_line():
    process = start_main("--prot", "1", "--host", "0.0.0.0")
    _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "unknown flag --prot" in log
    assert "Traceback" not in log
    process = start_main("--host", "0.0.0.0", "--port", str(free_port()))
    _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "insecure=true" in log
    assert "Traceback" not in log


async def test_a_signal_while_the_base_loads_ends_the_process_at_once():
    port = free_port()
    process = start_main("--port", str(port), "--metrics-port", "0", base="slow:60")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            assert await health_of(channel) == NOT_SERVING
            assert await health_of(channel, "liveness") == SERVING
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.to_thread(process.communicate, timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert "stopped before it was ready" in log
    assert "Traceback" not in log


async def test_a_base_that_cannot_be_loaded_ends_the_process_with_its_error():
    process = start_main("--metrics-port", "0", base="missing")
    _, log = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 1
    assert "base is 'missing'; allowed: a base that exists" in log
    assert "Traceback" not in log


async def test_a_killed_front_takes_its_worker_with_it():
    port = free_port()
    process = start_main("--port", str(port), "--metrics-port", "0", base="fake")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            pid = int((await EchoStub(channel).call("Unary", "", timeout=20)).strip("(").partition(",")[0])
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate, timeout=20)

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"  # dead; whoever is process 1 here has not asked after it yet

    await until(gone)
