"""Every tensor and every answer of the golden directories, through the tool that a user runs; and that it goes red."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tools.check_golden.__main__ import check, main
from tools.check_golden.golden import Golden, load_golden
from tools.check_golden.outputs import FACTS
from tools.check_golden.stored_tensors import check_tensors
from tools.check_golden.variant import with_variant


@pytest.fixture(scope="module")
def golden(folder: Path) -> Golden:
    with torch.no_grad():
        return load_golden(folder)


@torch.no_grad()
def test_every_tensor_and_output_agrees(golden: Golden) -> None:
    lines = list(check(golden))
    assert not [str(line) for line in lines if not line.agrees]
    wanted = {*golden.tensors, *golden.results} - {name for name, fact in FACTS.items() if fact is None}
    assert {line.name for line in lines} == {"weights", *wanted}, "nothing stored is left unchecked"


@torch.no_grad()
def test_one_weight_off_is_seen(golden: Golden) -> None:
    weight = golden.model.text.post_ln.weight
    weight[0] += 0.01
    try:
        lines = {line.name: line.agrees for line in check_tensors(golden, 1e-4)}
    finally:
        weight[0] -= 0.01
    assert not lines["full_logits_last"]
    assert lines["full_hidden"]
    assert lines["coord_logits_last"]


@torch.no_grad()
def test_the_adapter_is_gone_after_it_was_checked(golden: Golden) -> None:
    before = [line.detail for line in check_tensors(golden, 1e-4)]
    with with_variant(golden):
        changed = {line.name for line in check_tensors(golden, 1e-4) if not line.agrees}
    assert changed == {"full_hidden", "full_logits_last", "coord_logits_last", "size_logits_last"}
    assert [line.detail for line in check_tensors(golden, 1e-4)] == before


def test_the_exit_status_tells(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["check_golden", *arguments])
        return main()

    changed = shutil.copytree(folder, tmp_path / "changed")
    results = json.loads((changed / "results.json").read_text())
    results["query"]["answer"] += "!"
    results["caption_in_rhyme"] = {"caption": "?"}
    (changed / "results.json").write_text(json.dumps(results))
    assert status(str(changed)) == 1
    said = capsys.readouterr().out
    assert said.count("MISMATCH") == 2
    assert "an output that this tool does not know" in said
    (changed / "weights_manifest.json").write_text("{}")
    assert status(str(changed)) == 2
    assert "cannot be checked" in capsys.readouterr().err
