"""Our int4 files as Moondream 2's public code unpacks them; skipped without MOONTUNE_PUBLIC_MOONDREAM."""

import importlib
import sys

import pytest
import torch

from moontune.model.quantisation import from_int4, to_int4
from tests.golden.test_side_by_side import CHECKOUTS
from tools.public_moondream import LAYOUTS, generation_of

SECOND = [path for path in CHECKOUTS if generation_of(path) == "moondream2"]


@pytest.mark.skipif(not SECOND, reason="set MOONTUNE_PUBLIC_MOONDREAM to a checkout of Moondream 2 to run beside it")
@pytest.mark.filterwarnings("ignore")  # of code that is not ours
def test_the_public_code_reads_what_we_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SECOND[0]))
    monkeypatch.setitem(sys.modules, "pyvips", None)
    layers = importlib.import_module(f"{LAYOUTS['moondream2']}.layers")
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(0))
    packed = to_int4(weight)
    empty = layers.QuantizedLinear(256, 96, torch.float32).weight
    assert empty["packed"].shape == packed.packed.shape
    assert empty["scale"].shape == packed.scale.shape == packed.zero_point.shape == empty["zero_point"].shape
    theirs = layers.dequantize_tensor(packed.packed, packed.scale, packed.zero_point, (96, 256), torch.float32)
    torch.testing.assert_close(from_int4(packed, (96, 256)), theirs)
