"""One place names devices."""

import re
from pathlib import Path

import pytest
import torch

from moontune.errors import InvalidField
from moontune.model import device

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"""\.(cuda|mps|npu|xpu)\(|torch\.(cuda|mps|npu|xpu)\b|["'](cuda|mps|npu|xpu)(:\d+)?["']""")
SOURCES = [
    path for top in ("moontune", "services", "tools", "benchmarks", "examples") for path in (ROOT / top).rglob("*.py")
]


def test_no_other_file_names_a_device() -> None:
    assert len(SOURCES) > 100
    here = Path(device.__file__)
    named = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        if path != here
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if NAMED.search(line)
    }
    assert not named, f"a device is named outside {here.name}: {', '.join(sorted(named))}"


@pytest.mark.parametrize(
    "line", ["x.cuda()", 'to("cuda")', "torch.device('cuda:1')", "torch.cuda.synchronize()", 'd == "mps"']
)
def test_the_search_finds_names(line: str) -> None:
    assert NAMED.search(line)


def test_the_cpu_is_always_there() -> None:
    assert device.choose_device("cpu") == "cpu"
    assert device.default_dtype("cpu") is torch.float32
    assert device.default_dtype(f"{device.KNOWN[1]}:0") is torch.bfloat16


@pytest.mark.parametrize("wanted", ["", "tpu", "cpu:x", f"{device.KNOWN[1]}:99", "meta"])
def test_devices_that_are_not_there(wanted: str) -> None:
    with pytest.raises(InvalidField, match="device"):
        device.choose_device(wanted)
