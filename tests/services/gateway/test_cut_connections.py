"""The official client with short timeouts, an engine slower than them, and a proxy that cuts: once each, none lost."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.fakes.loop import FakeRollout
from tests.services.gateway.conftest import gateway
from tests.services.gateway.cutting_proxy import Cut, CuttingProxy, listening
from tests.services.gateway.official_client import client_folder

SCRIPT = Path(__file__).parent / "impatient_client_script.py"
TIMEOUT_S = 1.5

PLANS = {
    "slower than the client's patience": [(False, Cut.NEVER), (False, Cut.NEVER), (True, Cut.NEVER)],
    "cut before the response": [(False, Cut.BEFORE), (True, Cut.NEVER)],
    "cut during the response": [(True, Cut.DURING)],
    "cut inside the response": [(True, Cut.INSIDE)],
    "cut again and again": [(False, Cut.BEFORE), (True, Cut.INSIDE), (True, Cut.DURING)],
    "not cut": [],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
__all__ = ["client_folder"]


class Gate:
    """Holds the engine's calls; `release` lets the one go that waits, and none that comes later."""

    def __init__(self):
        self._waiting = []

    async def wait(self):
        mine = asyncio.Event()
        self._waiting.append(mine)
        await mine.wait()

    def release(self):
        if self._waiting:
            self._waiting.pop(0).set()


async def calls_through_cuts(folder, running, proxy, call):
    proxy.actions.extend(action for plan in PLANS.values() for action in [*plan, (True, Cut.NEVER)])
    environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
    async with listening(proxy) as port:
        url, calls = f"http://127.0.0.1:{port}", str(len(PLANS))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(SCRIPT), url, call, calls, str(TIMEOUT_S), env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_every_step_is_applied_once_though_all_have_the_same_body(client_folder, tmp_path):
    async with gateway(tmp_path) as running:
        gate, applied = Gate(), running.trainer._apply

        async def apply(step, payload):
            if step.request_id not in running.trainer.answers:  # a replay is not slow
                await gate.wait()
            return await applied(step, payload)

        running.trainer._apply = apply

        async def arrived():
            await asyncio.sleep(0.2)

        proxy = CuttingProxy(running.port, "/train_step", gate.release, arrived)
        steps = await calls_through_cuts(client_folder, running, proxy, "train_step")
        assert steps == list(range(1, len(PLANS) + 1))
        assert [step.request_id for step in running.trainer.steps] == list(running.trainer.answers)
        assert len(running.trainer.steps) == len(PLANS)
        assert proxy.attempts > len(PLANS)


class HeldRollout(FakeRollout):
    """Generates once the gate lets it."""

    gate = None

    async def GenerateRollouts(self, request, context):  # noqa: N802
        await self.gate.wait()
        return await super().GenerateRollouts(request, context)


async def test_every_group_is_made_once_and_reaches_its_caller(client_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.services.gateway.conftest.FakeRollout", HeldRollout)
    async with gateway(tmp_path) as running:
        gate = HeldRollout.gate = Gate()

        async def arrived():
            await asyncio.sleep(0.2)

        proxy = CuttingProxy(running.port, "/rollouts", gate.release, arrived)
        groups = await calls_through_cuts(client_folder, running, proxy, "rollouts")
        assert len(groups) == len(PLANS)
        assert len(running.rollout.orders) == len(PLANS)
        assert running.rollout.cancelled == 0
        assert running.state.rollouts.held == 0
