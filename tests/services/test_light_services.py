"""The services without a model never load torch, not even through something that they import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["services.gateway.http_server", "services.reward.servicer"])
def test_no_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'peft'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
