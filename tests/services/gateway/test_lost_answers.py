"""A caller that gives up and sends the same bytes again: nothing runs twice, nothing is lost.

Raw sockets, because the point is when exactly the connection ends.
"""

import asyncio
import json

import pytest

from services.gateway.deliveries import DeliveryCounters, body_digest
from services.gateway.unfinished import HeldResults, JoinedWork
from tests.fakes.chassis import until
from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_tuning import detect_body, rl_group


async def send(port, path, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    await writer.drain()
    return reader, writer


async def answer_of(connection):
    reader, writer = connection
    raw = await reader.read()
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], raw
    return json.loads(body)


def leave(connection):
    connection[1].transport.abort()


async def step_body(running, finetune_id):
    return {"finetune_id": finetune_id, "groups": [await rl_group(running, finetune_id)], "lr": 1e-4}


async def test_training_twice_on_one_batch_is_two_steps(running):
    body = await step_body(running, await running.finetune())
    for expected in (1, 2, 3):
        answer = (await running.client.post("/v1/tuning/train_step", json=body)).json()
        assert (answer["step"], answer["replayed"]) == (expected, False)
    assert len({step.request_id for step in running.trainer.steps}) == 3


async def test_a_step_whose_caller_left_is_applied_once_and_answered_again(running):
    body = await step_body(running, await running.finetune())
    running.trainer.slow_s = 0.3
    first = await send(running.port, "/v1/tuning/train_step", body)
    await asyncio.sleep(0.1)
    leave(first)
    joined = await answer_of(await send(running.port, "/v1/tuning/train_step", body))
    assert (joined["step"], len(running.trainer.steps)) == (1, 1)
    running.trainer.slow_s = 0.0
    after = await answer_of(await send(running.port, "/v1/tuning/train_step", body))
    assert (after["step"], after["replayed"]) == (2, False)


async def test_a_step_done_after_its_caller_left_is_replayed(running):
    body = await step_body(running, await running.finetune())
    body["groups"][0]["rollouts"][0].pop("moontune")  # unverified: nothing in the payload may depend on the step
    running.trainer.slow_s = 0.2
    left = await send(running.port, "/v1/tuning/train_step", body)
    await until(lambda: running.trainer.running)
    leave(left)
    await until(lambda: running.trainer.steps)
    await asyncio.sleep(0.05)
    again = await answer_of(await send(running.port, "/v1/tuning/train_step", body))
    assert (again["step"], again["replayed"]) == (1, True)
    assert len(running.trainer.steps) == 1


async def test_the_counter_survives_a_restart_of_the_gateway(tmp_path):
    async with gateway(tmp_path) as running:
        body = await step_body(running, await running.finetune())
        await running.client.post("/v1/tuning/train_step", json=body)
        trainer = running.trainer
    async with gateway(tmp_path) as running:
        running.trainer.__dict__.update(trainer.__dict__)
        answer = (await running.client.post("/v1/tuning/train_step", json=body)).json()
        assert (answer["step"], answer["replayed"]) == (2, False)
        assert all(group.verified for step in running.trainer.steps for group in step.groups)


async def test_rollouts_whose_caller_left_wait_for_the_same_request(running):
    body = detect_body(await running.finetune())
    running.rollout.slow_s = 0.2
    leave(await send(running.port, "/v1/tuning/rollouts", body))
    await until(lambda: running.state.rollouts.held == 1)
    answer = await answer_of(await send(running.port, "/v1/tuning/rollouts", body))
    assert len(answer["rollouts"]) == 4
    assert (len(running.rollout.orders), running.rollout.cancelled) == (1, 0)
    await answer_of(await send(running.port, "/v1/tuning/rollouts", body))
    assert len(running.rollout.orders) == 2


async def test_the_same_rollouts_asked_for_at_once_are_two_requests(running):
    body = detect_body(await running.finetune())
    running.rollout.slow_s = 0.1
    both = [await send(running.port, "/v1/tuning/rollouts", body) for _ in range(2)]
    await asyncio.gather(*(answer_of(one) for one in both))
    assert len(running.rollout.orders) == 2
    assert running.state.rollouts.held == 0


async def test_inference_stops_upstream_when_its_caller_leaves(running):
    running.inference.slow_s = 5.0
    left = await send(running.port, "/v1/detect", {"object": "x", "image_url": image_url()})
    await until(lambda: running.inference.orders)
    leave(left)
    await until(lambda: running.inference.cancelled == 1)


def test_counters_never_fall_and_are_kept_apart(tmp_path):
    counters = DeliveryCounters(f"sqlite:///{tmp_path}/g.db")
    digest = body_digest("key", "ft", b"body")
    assert counters.delivered("a", digest) == 0
    counters.raise_to("a", digest, 2)
    counters.raise_to("a", digest, 1)
    assert (counters.delivered("a", digest), counters.delivered("b", digest)) == (2, 0)
    assert counters.record_secret() == counters.record_secret()
    counters.close()
    again = DeliveryCounters(f"sqlite:///{tmp_path}/g.db")
    assert again.delivered("a", digest) == 2
    again.close()
    others = {body_digest(*parts) for parts in (("key", "ft", b"bodz"), ("ke", "yft", b"body"), ("key", "f", b"tbody"))}
    assert len(others | {digest}) == 4


async def test_held_results_expire_and_failures_are_not_held():
    held = HeldResults[int](0.05)

    async def made() -> int:
        return 1

    async def failed() -> int:
        raise ValueError

    task = held.take_or_start("a", made)
    await task
    held.hold("a", task)
    assert held.take_or_start("a", made) is task
    held.hold("a", task)
    await asyncio.sleep(0.08)
    assert held.held == 0
    broken = held.take_or_start("b", failed)
    held.hold("b", broken)
    with pytest.raises(ValueError):
        await broken
    await asyncio.sleep(0)
    assert held.held == 0
    await held.close()


async def test_joined_work_runs_once_per_name():
    joined, runs = JoinedWork[int](), []

    async def work() -> int:
        runs.append(1)
        await asyncio.sleep(0.01)
        return len(runs)

    first = joined.start_or_join("x", work)
    assert joined.start_or_join("x", work) is first
    assert await first == 1
    await asyncio.sleep(0)
    assert await joined.start_or_join("x", work) == 2
    await joined.close()
