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

import httpx
import pytest

from tests.fakes.tiny_base import write_tiny_base
from tests.services.gateway.conftest import gateway

SCRIPT = Path(__file__).parent / "official_client_script.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official-client")
    for wanted in (["--no-deps", "moondream==2.6.1"], ["pillow"]):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"the official client cannot be installed here: pip said {done.stderr.strip()[-300:]}")
    return folder


async def run_script(folder: Path, url: str) -> dict:
    # -I -S would drop PYTHONPATH; -P keeps our tree off the path, so that only the folder is importable.
    environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(SCRIPT), url, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def check(seen: dict) -> None:
    works = {"query": True, "stream": True, "point": True, "detect": True}
    assert seen == {
        "idempotent": True,
        "opened": 8,
        "rewards": [4, 2, None],
        "greedy": 1,
        "steps": [1, True, 2, True],
        "unverified": 0.0,
        "logged": 1,
        "stream": 4,
        "saved": True,
        "listed": True,
        "base": works,
        "tuned": works,
    }


async def test_against_scripted_services(client_folder, tmp_path):
    async with gateway(tmp_path) as running:
        check(await run_script(client_folder, f"http://127.0.0.1:{running.port}"))


async def test_against_the_real_services_with_a_random_base(client_folder, tmp_path):
    with whole_stack(tmp_path) as (port, stack):
        await ready(f"http://127.0.0.1:{port}/health", stack)
        check(await run_script(client_folder, f"http://127.0.0.1:{port}"))


@contextlib.contextmanager
def whole_stack(tmp_path):
    """`moontune up` with a data folder of its own, on ports that no outgoing connection takes by chance."""
    base = write_tiny_base(tmp_path / "base")
    first = 20_000 + 200 * random.SystemRandom().randrange(50)
    port = first + 100
    up = [
        str(Path(sys.executable).parent / "moontune"),
        "up",
        "--base",
        str(base),
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
