"""Mixed traffic for a long time: what is left of it in memory, in streams, and in train steps."""

import asyncio
import json
import random
import time
import urllib.request
from dataclasses import dataclass, field

from benchmarks.gateway_stack import HttpCaller, Stack, image_url, picture

TRAINERS, ASKERS, LEAVERS = 2, 6, 3
LEAVER_PAUSE_S = 0.3
"""Between two departures of one leaver: about one caller in ten leaves. Without a pause it was two in five, and gRPC's
own 250 bytes for each call cancelled before its first reply could be seen (docs/benchmarks.md)."""


@dataclass(slots=True)
class Counts:
    """What was done. applied: steps by finetune that were acknowledged as applied."""

    requests: int = 0
    left: int = 0
    refused: int = 0
    applied: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[str] = field(default_factory=list[str])


async def soak(at: Stack, seconds: float) -> dict[str, object]:
    """Run the traffic; the figures."""
    counts, gateway = Counts(), at.gateway()
    stop_at = time.monotonic() + seconds
    work = [
        *(train(at.http, f"soak-{index}", stop_at, counts) for index in range(TRAINERS)),
        *(ask(at.http, index, stop_at, counts) for index in range(ASKERS)),
        *(leave(at.http, index, stop_at, counts) for index in range(LEAVERS)),
    ]
    memory: list[int] = []
    watching = asyncio.create_task(_watch(gateway, memory, max(1.0, seconds / 60)))
    await asyncio.gather(*work)
    watching.cancel()
    await asyncio.sleep(5.0)
    lost = {name: wanted - _step(at.http, name) for name, wanted in counts.applied.items()}
    fifths = [memory[max(0, len(memory) * part // 5 - 1)] for part in range(6)]
    return {
        "seconds": seconds,
        "requests": counts.requests,
        "callers_that_left": counts.left,
        "steps_applied": sum(counts.applied.values()),
        "steps_lost_or_doubled": lost,
        "errors": counts.errors[:10],
        "error_count": len(counts.errors),
        "gateway_rss_mib_by_fifths": [round(size / 2**20, 1) for size in fifths],
        "gateway_open_connections_at_the_end": len(_from_callers(gateway, at.http)),
        "rpcs_in_flight_at_the_end": _in_flight(at),
    }


async def train(port: int, name: str, stop_at: float, counts: Counts) -> None:
    """Rollouts and a step on them, over and over; now and then a checkpoint."""
    http = HttpCaller(port)
    finetune = (await _ok(http, "/v1/tuning/finetunes", {"name": name, "rank": 8}, counts))["finetune_id"]
    counts.applied[finetune], number = 0, 0
    while time.monotonic() < stop_at:
        asked = {"skill": "detect", "object": "red square", "image_url": image_url(picture(number))}
        made = await _ok(http, "/v1/tuning/rollouts", _rollouts(finetune, asked), counts)
        rewards = [random.random() for _ in made["rollouts"]]
        group = {"mode": "rl", "request": made["request"], "rollouts": made["rollouts"], "rewards": rewards}
        step = await _ok(http, "/v1/tuning/train_step", {"finetune_id": finetune, "groups": [group]}, counts)
        counts.applied[finetune] += bool(step["applied"]) and not step["replayed"]
        number += 1
        if number % 20 == 0:
            await _ok(http, f"/v1/tuning/finetunes/{finetune}/checkpoints/save", {}, counts)
    http.close()


async def ask(port: int, index: int, stop_at: float, counts: Counts) -> None:
    """Queries, points, detects and chats, plain and streamed."""
    http, number = HttpCaller(port), index
    while time.monotonic() < stop_at:
        url, few = image_url(picture(number)), {"max_tokens": 8}
        match number % 4:
            case 0:
                await _ok(http, "/v1/query", {"question": "What?", "image_url": url, "settings": few}, counts)
            case 1:
                await _ok(http, "/v1/detect", {"object": "red square", "image_url": url}, counts)
            case 2:
                body = {"question": "What?", "image_url": url, "settings": few, "stream": True}
                if b'"completed": true' not in await http.stream("/v1/query", body, 0):
                    counts.errors.append("a stream did not complete")
                counts.requests += 1
            case _:
                said = [{"role": "user", "content": "What is red?"}]
                await _ok(http, "/v1/chat/completions", {"messages": said, "max_tokens": 8}, counts)
        number += 1
    http.close()


async def leave(port: int, index: int, stop_at: float, counts: Counts) -> None:
    """Callers that go before, in and after their answers."""
    http, number = HttpCaller(port), index
    while time.monotonic() < stop_at:
        body = {"question": "What?", "image_url": image_url(picture(number)), "stream": True}
        task = asyncio.create_task(http.stream("/v1/query", body, 1))
        await asyncio.wait({task}, timeout=random.random() * 0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        counts.left += 1
        number += 1
        await asyncio.sleep(LEAVER_PAUSE_S)


def _rollouts(finetune: str, asked: dict[str, object]) -> dict[str, object]:
    settings = {"max_tokens": 30, "max_objects": 4}
    return {"finetune_id": finetune, "num_rollouts": 4, "request": asked | {"settings": settings}}


async def _ok(http: HttpCaller, path: str, body: object, counts: Counts) -> dict[str, object]:
    status, answer = await http.post(path, body)
    counts.requests += 1
    if status != 200:
        counts.errors.append(f"{path}: {status} {answer[:200].decode()}")
    return json.loads(answer)


async def _watch(gateway: object, memory: list[int], every_s: float) -> None:
    while True:
        memory.append(gateway.memory_info().rss)  # type: ignore[attr-defined]
        await asyncio.sleep(every_s)


def _step(port: int, finetune: str) -> int:
    url = f"http://127.0.0.1:{port}/v1/tuning/finetunes/{finetune}"
    with urllib.request.urlopen(url) as answer:
        return json.loads(answer.read())["finetune"]["step"]


def _from_callers(gateway: object, port: int) -> list[object]:
    found = gateway.net_connections(kind="tcp")  # type: ignore[attr-defined]
    return [one for one in found if one.laddr.port == port and one.status == "ESTABLISHED"]


def _in_flight(at: Stack) -> float:
    """Over all services, by their metrics pages."""
    total = 0.0
    for port in range(at.first + 1, at.first + 6):
        with urllib.request.urlopen(f"http://127.0.0.1:{port + 1000}/metrics") as page:
            for line in page.read().decode().splitlines():
                if line.startswith("moontune_rpcs_in_flight"):
                    total += float(line.split()[-1])
    return total
