"""One place names devices."""

import re
from pathlib import Path

import pytest
import torch

from moontune.errors import InvalidField
from moontune.model import base_model, device
from moontune.model.base_model import share_base
from moontune.model.lora import Adapters
from moontune.values.finetune import LoraSettings, LoraTarget
from tests.fakes.adapters import draw
from tests.fakes.tiny_base import tiny_base

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


def test_nothing_is_compiled_unless_asked_for_and_never_on_the_cpu() -> None:
    assert device.compile_backend("cpu", wanted=True) is None
    assert device.compile_backend(device.KNOWN[1], wanted=False) is None
    assert device.compile_backend(device.KNOWN[1], wanted=True) == "inductor"


@torch.no_grad()
def test_compiled_blocks_answer_as_plain_ones_with_and_without_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch.compile's eager backend: tracing, changing counts of crops and an adapter's layers, not the kernels."""
    plain = tiny_base(tmp_path)
    monkeypatch.setattr(base_model, "compile_backend", lambda *_, **__: "eager")
    compiled = share_base(plain)
    adapter = draw(plain.config, LoraSettings(2, 3.0, (LoraTarget.VISION,)))
    for adapted in (False, True):
        for tree in (plain.module, compiled.module):
            if adapted:
                adapters = Adapters(tree)
                adapters.attach_tensors("a", adapter)
                adapters.activate("a")
        for count in (1, 3, 2):
            crops = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
            torch.testing.assert_close(compiled.module.encode_crops(crops), plain.module.encode_crops(crops))
