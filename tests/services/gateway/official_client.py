"""Moondream's own client 2.6.1 in a folder of its own, never beside our code."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def client_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official-client")
    for wanted in (["--no-deps", "moondream==2.6.1"], ["pillow"]):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"the official client cannot be installed here: pip said {done.stderr.strip()[-300:]}")
    return folder
