"""The component that turns checkpoints into other forms, on whole finetunes as well as on adapters."""

from pathlib import Path

import pytest
import torch

from moontune.errors import InvalidField
from moontune.model.base_model import load_base, share_base
from moontune.model.lora import Adapters
from moontune.values.adapter import ExportKind
from moontune.values.finetune import FinetuneKind, LoraSettings
from services.trainer import forms
from services.trainer.orders import WriteForm
from tests.fakes.tiny_base import tiny_base


class Calm:
    """A caller that stays."""

    def cancelled(self) -> bool:
        return False

    def emit(self, value: object) -> None:
        raise AssertionError(value)


def test_a_full_finetune_goes_out_merged_and_in_no_adapters_form(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapters = Adapters(share_base(base).module)
    adapters.attach("f", LoraSettings(), FinetuneKind.FULL)
    with torch.no_grad():
        adapters.parameters("f")["text.post_ln.bias"] += 1.0
    adapters.save("f", tmp_path / "step")
    component = forms.build(base, None)
    component.write(Calm(), WriteForm(ExportKind.MERGED, str(tmp_path / "step"), str(tmp_path / "out")))
    found = load_base(str(tmp_path / "out"), device="cpu").module.text.post_ln.bias
    torch.testing.assert_close(found, base.module.text.post_ln.bias + 1.0)
    with pytest.raises(InvalidField, match="a finetune of kind full, merged or int4"):
        component.write(Calm(), WriteForm(ExportKind.PHOTON, str(tmp_path / "step"), str(tmp_path / "photon")))
