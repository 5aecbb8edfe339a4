"""What the HTTP edge costs: `python -m benchmarks.gateway [--base NAME] [--rounds N] [--soak-s S]`.

Requests a second and latency of the gateway beside direct gRPC, for query (one token) and rollouts (a group of four),
at 1 to 64 callers, on a whole moontune of its own. Each round takes both ways at every number of callers, the order
rotating; figures are medians over rounds. Writes out/benchmarks/gateway.json.

`--soak-s 600` sends mixed traffic for so long instead, and then looks for memory that grew, streams that were not ended
and train steps that were lost.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gateway_soak import soak
from benchmarks.gateway_stack import HttpCaller, Stack, image_url, picture, stack
from moontune.clients.inference import InferenceClient
from moontune.clients.rollout import RolloutClient
from moontune.clients.trainer import TrainerClient
from moontune.values.finetune import LoraSettings, NewFinetune
from moontune.values.inference import InferenceRequest
from moontune.values.request import SkillRequest
from moontune.values.rollout_order import RolloutOrder
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

CALLERS = (1, 4, 16, 64)
WORK_S = 2.0
Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One way, at one number of callers, in one round."""

    rate: float
    p50_ms: float
    p99_ms: float


async def measured(calls: list[Call]) -> Sample:
    """Each caller calls again as soon as it is answered, for WORK_S."""
    seconds: list[float] = []
    started = time.perf_counter()

    async def caller(call: Call) -> None:
        while time.perf_counter() - started < WORK_S:
            before = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - before)

    await asyncio.gather(*(caller(call) for call in calls))
    elapsed = time.perf_counter() - started
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return Sample(len(ordered) / elapsed, 1000 * statistics.median(ordered), 1000 * p99)


class Ways:
    """Both ways to ask for the same work."""

    def __init__(self, at: Stack, inference: InferenceClient, rollouts: RolloutClient, finetune_id: str) -> None:
        self._inference, self._rollouts, self._port = inference, rollouts, at.http
        image, url = picture(), image_url(picture())
        one = SamplingSettings(temperature=0.0, max_tokens=1)
        self._query = InferenceRequest("moondream3-preview", SkillRequest(Skill.QUERY, image, "What?", settings=one))
        few = SamplingSettings(max_tokens=30, max_objects=4)
        request = SkillRequest(Skill.DETECT, image, object="red square", settings=few)
        self._order = RolloutOrder(f"moondream3-preview/{finetune_id}@0", request, 4)
        settings = {"temperature": 0.0, "max_tokens": 1}
        self._query_body = {"question": "What?", "image_url": url, "settings": settings}
        asked = {"skill": "detect", "object": "red square", "image_url": url}
        asked["settings"] = {"max_tokens": 30, "max_objects": 4}
        self._rollouts_body = {"finetune_id": finetune_id, "num_rollouts": 4, "request": asked}

    def calls(self, work: str, way: str, count: int) -> tuple[list[Call], list[HttpCaller]]:
        """So many callers, and the connections to drop afterwards."""
        if way == "grpc":
            direct = self._direct_query if work == "query" else self._direct_rollouts
            return [direct] * count, []
        callers = [HttpCaller(self._port) for _ in range(count)]
        path, body = ("/v1/query", self._query_body)
        if work == "rollouts":
            path, body = ("/v1/tuning/rollouts", self._rollouts_body)
        return [self._posted(caller, path, body) for caller in callers], callers

    def _posted(self, caller: HttpCaller, path: str, body: dict[str, object]) -> Call:
        async def post() -> None:
            status, answer = await caller.post(path, body)
            if status != 200:
                raise RuntimeError(answer.decode())

        return post

    async def _direct_query(self) -> object:
        return await self._inference.answer(self._query)

    async def _direct_rollouts(self) -> object:
        return await self._rollouts.generate(self._order)


async def compare(at: Stack, rounds: int, callers: tuple[int, ...]) -> dict[str, dict[str, dict[str, Sample]]]:
    """Medians by work, number of callers and way."""
    found: dict[tuple[str, int, str], list[Sample]] = {}
    async with AsyncExitStack() as open_clients:
        trainer = await open_clients.enter_async_context(TrainerClient(f"127.0.0.1:{at.first + 3}"))
        inference = await open_clients.enter_async_context(InferenceClient(f"127.0.0.1:{at.first + 4}"))
        rollouts = await open_clients.enter_async_context(RolloutClient(f"127.0.0.1:{at.first + 1}"))
        made = await trainer.create_finetune(NewFinetune("", "bench", lora=LoraSettings(rank=8)))
        ways = Ways(at, inference, rollouts, made.id)
        for turn in range(rounds + 1):  # the first warms up
            for work in ("query", "rollouts"):
                for count in callers:
                    for way in ("grpc", "http") if turn % 2 else ("http", "grpc"):
                        calls, connections = ways.calls(work, way, count)
                        sample = await measured(calls)
                        for connection in connections:
                            connection.close()
                        if turn:
                            found.setdefault((work, count, way), []).append(sample)
    report: dict[str, dict[str, dict[str, Sample]]] = {}
    for (work, count, way), samples in found.items():
        middle = Sample(*(statistics.median(getattr(one, name) for one in samples) for name in Sample.__slots__))
        report.setdefault(work, {}).setdefault(str(count), {})[way] = middle
    return report


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="moontune-tiny")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--callers", default=",".join(map(str, CALLERS)))
    parser.add_argument("--soak-s", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/gateway.json"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    with stack(options.base) as at:
        if options.soak_s:
            kept["soak"] = asyncio.run(soak(at, options.soak_s))
            Console(width=100).print(kept["soak"])
        else:
            callers = tuple(int(count) for count in options.callers.split(","))
            report = asyncio.run(compare(at, options.rounds, callers))
            kept |= _shown(report, options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(kept, indent=2) + "\n")


def _shown(report: dict[str, dict[str, dict[str, Sample]]], rounds: int) -> dict[str, object]:
    """Print the table; the report as it is written."""
    table = Table(title=f"gateway beside direct gRPC, median of {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    for column in ("work", "callers", "gRPC/s", "HTTP/s", "gRPC p50 ms", "HTTP p50 ms", "overhead", "HTTP p99 ms"):
        table.add_column(column, justify="left" if column == "work" else "right")
    written: dict[str, object] = {"rounds": rounds, "load": os.getloadavg()[0]}
    for work, by_count in report.items():
        for count, ways in by_count.items():
            grpc, http = ways["grpc"], ways["http"]
            overhead = http.p50_ms - grpc.p50_ms
            numbers = (grpc.rate, http.rate, grpc.p50_ms, http.p50_ms, overhead, http.p99_ms)
            table.add_row(work, count, *(f"{number:.1f}" for number in numbers))
            names = ("grpc_per_s", "http_per_s", "grpc_p50_ms", "http_p50_ms", "overhead_p50_ms", "http_p99_ms")
            written[f"{work}_{count}"] = dict(zip(names, numbers, strict=True))
    Console(width=110).print(table)
    return written


if __name__ == "__main__":
    main()
