"""The services without a model never load torch, not even through something that they import."""

import subprocess
import sys

import pytest

MODULES = [
    "services.gateway.__main__, services.gateway.http_server",
    "services.jobs.__main__, services.jobs.servicer",
    "services.reward.__main__, services.reward.servicer",
]


@pytest.mark.parametrize("modules", MODULES)
def test_no_torch(modules):
    code = f"import sys, {modules}; print(sorted({{'torch', 'peft'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
