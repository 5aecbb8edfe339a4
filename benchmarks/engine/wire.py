"""(f): what gRPC and the process between cost: the same orders through the rollout service and in this process.

The service runs in processes of its own (front and model worker), as in production; 16 orders of 8 rollouts are in
flight at once in both arms.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.engine.arms import Arm, measure, show
from benchmarks.engine.subjects import Caller, order
from moontune.clients.rollout import RolloutClient
from moontune.engine.engine import Engine
from moontune.errors import MoontuneError
from moontune.model.base_model import BaseModel
from moontune.values.rollout_order import RolloutOrder
from moontune.values.skill import Skill

ORDERS, COUNT, IN_FLIGHT = 64, 8, 16


def run(base: BaseModel, rounds: int) -> tuple[dict[str, object], dict[str, float]]:
    """Medians of both arms and their ratio, below 1 by what the wire costs."""
    engine = Engine(base)
    orders = [order(base, Skill.DETECT, seed % 16, COUNT) for seed in range(ORDERS)]
    orders = [replace(each, seed=seed) for seed, each in enumerate(orders)]

    def in_process() -> None:
        turns = iter(orders)
        lock = threading.Lock()

        def caller() -> None:
            while True:
                with lock:
                    mine = next(turns, None)
                if mine is None:
                    return
                engine.generate(Caller(), mine)

        threads = [threading.Thread(target=caller) for _ in range(IN_FLIGHT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with tempfile.TemporaryDirectory() as folder, _service(base, folder) as address, asyncio.Runner() as runner:
        client = runner.run(_client(address))
        asked = [RolloutOrder(base.name, each.request, COUNT, seed=each.seed) for each in orders]
        arms = [
            Arm("in process", in_process),
            Arm("gRPC stream", lambda: runner.run(_stream(client, asked))),
        ]
        medians = measure(arms, rounds)
        runner.run(client.close())
    figures = show(f"{ORDERS} orders of {COUNT} rollouts, {IN_FLIGHT} in flight", medians, ORDERS * COUNT)
    return dict(figures), {"grpc_over_inprocess": medians["in process"] / medians["gRPC stream"]}


async def _client(address: str) -> RolloutClient:
    client = RolloutClient(address)
    for _ in range(600):
        try:
            await client.engine_status(deadline_s=2.0)
            return client
        except MoontuneError:
            await asyncio.sleep(0.1)
    raise TimeoutError(f"no rollout service at {address} within a minute")


async def _stream(client: RolloutClient, asked: list[RolloutOrder]) -> None:
    """All orders, so many in flight as the in-process arm has callers."""
    free = asyncio.Semaphore(IN_FLIGHT)

    async def orders() -> AsyncIterator[tuple[str, RolloutOrder]]:
        for index, each in enumerate(asked):
            await free.acquire()
            yield str(index), each

    async for _, group in client.stream(orders()):
        free.release()
        if isinstance(group, MoontuneError):
            raise group


@contextmanager
def _service(base: BaseModel, folder: str) -> Iterator[str]:
    """A rollout service over the base, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MOONTUNE_ROLLOUT_PORT": str(port),
        "MOONTUNE_ROLLOUT_METRICS_PORT": "0",
        "MOONTUNE_ROLLOUT_BASE": str(base.path),
        "MOONTUNE_ROLLOUT_DEVICE": base.device,
        "MOONTUNE_ROLLOUT_THREADS": str(torch.get_num_threads()),
        "MOONTUNE_ROLLOUT_ADAPTER_DIR": folder,
    }
    with (Path(folder) / "log").open("w") as log:
        command = [sys.executable, "-m", "services.rollout"]
        service = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603
        try:
            yield f"127.0.0.1:{port}"
        finally:
            service.terminate()
            service.wait(timeout=30)
