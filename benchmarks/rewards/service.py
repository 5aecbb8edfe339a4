"""The reward service over gRPC, in a process of its own: batch sizes, and what 8 callers at once wait."""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TextIO

from benchmarks.rewards.samples import samples_for
from moontune.clients.reward import RewardClient
from moontune.values.reward import RewardComponent, RewardSpec
from services.reward.catalogue import entry_named

BATCHES = (1, 8, 64, 512)
CALLERS = 8
SPEC = RewardSpec((RewardComponent("soft_f_beta"),))


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds a call took, with `CALLERS` callers at once."""

    median_ms: float
    p99_ms: float


@asynccontextmanager
async def service() -> AsyncIterator[RewardClient]:
    """A reward service on a free port; ended by its own handle. Its log goes to a file: a full pipe would stop it."""
    environment = {
        **os.environ,
        "MOONTUNE_REWARD_PORT": "0",
        "MOONTUNE_REWARD_LOG_FORMAT": "json",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryFile("w+") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.reward"), stdout=log, stderr=log, env=environment
        )
        try:
            port = await _port(log, process)
            async with RewardClient(f"127.0.0.1:{port}") as client:
                yield client
        finally:
            process.terminate()
            await process.wait()


async def _port(log: TextIO, process: asyncio.subprocess.Process) -> int:
    while process.returncode is None:
        await asyncio.sleep(0.05)
        log.seek(0)
        events = [json.loads(line) for line in log.readlines() if line.startswith("{") and line.endswith("}\n")]
        ports = [int(event["port"]) for event in events if event.get("event") == "listening"]
        if ports:
            return ports[0]
    raise RuntimeError("the reward service ended before it said its port")


async def measure(rounds: int) -> tuple[dict[str, float], Waits]:
    """Grades per second by batch size, one call at a time; and waits of 8 callers with batches of 64."""
    async with service() as client:
        rates: dict[str, list[float]] = {f"grpc_batch_{size}": [] for size in BATCHES}
        samples = {size: samples_for(entry_named("soft_f_beta"), 10, size) for size in BATCHES}
        for turn in range(rounds + 1):
            for size in BATCHES:
                calls = max(1, 64 // size)
                started = time.perf_counter()
                for _ in range(calls):
                    await client.score(SPEC, samples[size])
                if turn:
                    rates[f"grpc_batch_{size}"].append(calls * size / (time.perf_counter() - started))
        waits = await _concurrently(client, rounds)
        return {name: statistics.median(values) for name, values in rates.items()}, waits


async def _concurrently(client: RewardClient, rounds: int) -> Waits:
    samples = samples_for(entry_named("soft_f_beta"), 10, 64)

    async def call() -> list[float]:
        waits: list[float] = []
        for _ in range(10 * rounds):
            started = time.perf_counter()
            await client.score(SPEC, samples)
            waits.append(1e3 * (time.perf_counter() - started))
        return waits

    waits = sorted(wait for caller in await asyncio.gather(*(call() for _ in range(CALLERS))) for wait in caller)
    return Waits(statistics.median(waits), waits[int(0.99 * len(waits))])
