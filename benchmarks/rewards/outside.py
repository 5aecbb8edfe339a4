"""Rewards outside the sandbox: installed plugin, remote service, judge, container. Batches of 64, warm and cold.

What is measured is the way there and back: each grades with next to no work of its own, on this machine.
"""

import asyncio
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.rewards.samples import samples_for
from moontune.clients.credentials import Credentials
from moontune.clients.reward_plugin import RewardPluginClient
from moontune.errors import MoontuneError
from moontune.values.output import QueryOutput
from moontune.values.reward import RewardSample
from moontune.values.reward_definition import ContainerReward, JudgeReward, RemoteReward
from services.reward.catalogue import entry_named
from services.reward.usercode.container import Containers, ContainerSource
from services.reward.usercode.judge import ImagesSeen, Judge
from services.reward.usercode.judge_models import OpenAiJudge
from services.reward.usercode.plugin import InstalledPlugin
from services.reward.usercode.remote import RemoteService
from services.reward.usercode.source import Source

BATCH = 64
DAEMON, IMAGE, COMMAND = "MOONTUNE_REWARD_DOCKER_HOST", "MOONTUNE_BENCHMARK_IMAGE", "MOONTUNE_BENCHMARK_COMMAND"
"""The environment that names a daemon, a pinned image on it, and its command as a JSON list."""

Opened = Callable[[], AbstractAsyncContextManager[Source]]


async def measure_outside(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """`<kind>_warm` in grades per second, and `<kind>_cold` in milliseconds: from no connection to the first grade."""
    rates: dict[str, float] = {}
    cold_ms: dict[str, float] = {}
    kinds: dict[str, Opened] = {"installed_plugin": _plugin, "remote_plugin": _remote, "judge": _judge}
    if os.environ.get(IMAGE) and os.environ.get(DAEMON):
        kinds["container"] = _container
    else:
        print(f"containers are not measured: {DAEMON} and {IMAGE} name no daemon and image")
    for kind, opened in kinds.items():
        try:
            rates[f"{kind}_warm"], cold_ms[f"{kind}_cold"] = await _measured(opened, rounds)
        except MoontuneError as error:
            print(f"{kind} is not measured: {error.message}")
    return rates, cold_ms


async def _measured(opened: Opened, rounds: int) -> tuple[float, float]:
    numbers = itertools.count()
    warm, cold = list[float](), list[float]()
    for _ in range(3):
        async with opened() as source:
            cold.append(await _seconds(source, _samples(1, numbers)))
            for _ in range(rounds):
                warm.append(BATCH / await _seconds(source, _samples(BATCH, numbers)))
    return statistics.median(warm), 1e3 * statistics.median(cold)


def _samples(count: int, numbers: "itertools.count[int]") -> list[RewardSample]:
    """Each with an answer never given before: judges remember."""
    made = samples_for(entry_named("token_f1"), 10, count)
    return [replace(sample, output=QueryOutput(f"answer {next(numbers)}")) for sample in made]


async def _seconds(source: Source, samples: list[RewardSample]) -> float:
    started = time.perf_counter()
    verdicts = await source.score(samples, {})
    spent = time.perf_counter() - started
    failed = [verdict.reason for verdict in verdicts if verdict.reward is None]
    if failed:
        raise RuntimeError(f"{len(failed)} grades failed: {failed[0]}")
    return spent


@asynccontextmanager
async def _plugin() -> AsyncGenerator[Source]:
    yield InstalledPlugin(lambda sample: 1.0 / max(1, len(sample["output"]["answer"].split())))


@asynccontextmanager
async def _remote() -> AsyncGenerator[Source]:
    """The example in Python, in a process of its own that is up already."""
    command = (sys.executable, "-m", "examples.rewards.plugin", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        endpoint = f"127.0.0.1:{int(await process.stdout.readline())}"
        service = RemoteService(RemoteReward(endpoint), RewardPluginClient(endpoint, Credentials(), deadline_s=5.0))
        yield service
        await service.close()
    finally:
        process.terminate()
        await process.wait()


class _Says(BaseHTTPRequestHandler):
    """A judge's endpoint that thinks for no time."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        payload = json.dumps({"choices": [{"message": {"content": '{"score": 0.5, "reason": "so so"}'}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@asynccontextmanager
async def _judge() -> AsyncGenerator[Source]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Says)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}/v1"
    model = OpenAiJudge(endpoint, "judge", "", 30.0)
    try:
        yield Judge(JudgeReward("judge", "Rate {answer}", endpoint), model, ImagesSeen(0))
    finally:
        await model.close()
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def _container() -> AsyncGenerator[Source]:
    containers = Containers(os.environ[DAEMON])
    command = tuple(json.loads(os.environ.get(COMMAND, "[]")))
    try:
        yield ContainerSource(containers, "local", ContainerReward(os.environ[IMAGE], command))
    finally:
        await asyncio.to_thread(containers.close)
