"""Moondream's own client 2.6.1, unchanged, as the peer: it lives in a folder of its own and never beside our code."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.tiny_base import write_tiny_base
from tests.services.gateway.conftest import gateway
from tests.services.gateway.official_client import client_folder

SCRIPT = Path(__file__).parent / "official_client_script.py"
QUICKSTART = Path(__file__).parent / "quickstart_script.py"
__all__ = ["client_folder"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def run_script(folder: Path, script: Path, url: str) -> Any:
    # -I -S would drop PYTHONPATH; -P keeps our tree off the path, so that only the folder is importable.
    environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(script), url, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def check(seen: dict) -> None:
    works = {"query": True, "stream": True, "point": True, "detect": True, "caption": True, "chat": True}
    assert seen == {
        "idempotent": True,
        "opened": 8,
        "rewards": [4, 2, 2, None],
        "bare": [None, None],
        "greedy": 1,
        "steps": [1, True, 2, True],
        "unverified": 0.0,
        "logged": 1,
        "stream": 10,
        "verified": True,
        "downloaded": True,
        "saved": True,
        "listed": True,
        "base": works,
        "tuned": works,
    }


async def test_against_scripted_services(client_folder, tmp_path):
    async with gateway(tmp_path) as running:
        running.inference.captions = True
        seen = await run_script(client_folder, SCRIPT, f"http://127.0.0.1:{running.port}")
        check({name: value for name, value in seen.items() if name not in ("lag", "ratios")})


async def test_against_the_real_services_with_a_random_base(client_folder, tmp_path):
    with whole_stack(tmp_path, str(write_tiny_base(tmp_path / "base"))) as (port, stack):
        await ready(f"http://127.0.0.1:{port}/health", stack)
        seen = await run_script(client_folder, SCRIPT, f"http://127.0.0.1:{port}")
        lag, ratios = seen.pop("lag"), seen.pop("ratios")
        check(seen)
        assert lag >= 1.0
        assert any(abs(ratio - 1.0) > 1e-4 for ratio in ratios), ratios


async def test_the_quickstarts_loop_raises_its_reward(client_folder, tmp_path):
    with whole_stack(tmp_path, "moontune-tiny") as (port, stack):
        await ready(f"http://127.0.0.1:{port}/health", stack)
        means = await run_script(client_folder, QUICKSTART, f"http://127.0.0.1:{port}")
        assert means[0] < 0.7, means  # two like circles: chance is a half
        assert sum(means[-3:]) / 3 > means[0] + 0.2, means


@contextlib.contextmanager
def whole_stack(tmp_path, base):
    """`moontune up` with a data folder of its own, on ports that no outgoing connection takes by chance."""
    first = 20_000 + 200 * random.SystemRandom().randrange(50)
    port = first + 100
    up = [
        str(Path(sys.executable).parent / "moontune"),
        "up",
        "--base",
        base,
        "--data-dir",
        str(tmp_path / "data"),
    ]
    up += ["--gateway-port", str(port), "--port-base", str(first), "--colocate", "rollout,trainer,inference"]
    with (tmp_path / "up.log").open("wb") as log:
        stack = subprocess.Popen(up, stdout=log, stderr=log)
        try:
            yield port, stack
        finally:
            stack.send_signal(signal.SIGINT)
            stack.wait(60)


async def ready(url: str, stack: subprocess.Popen) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        for _ in range(120):
            assert stack.poll() is None, "moontune up ended"
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.5)
    raise AssertionError("not ready in 60 s")
