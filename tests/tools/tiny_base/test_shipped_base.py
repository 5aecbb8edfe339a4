"""The base in the repository is what the tool makes, fits its limits, and still answers as its card says."""

import json
from pathlib import Path

import pytest

from moontune.model.base_folders import BASES
from moontune.model.base_model import load_base
from tools.tiny_base.architecture import NAME, tiny_config
from tools.tiny_base.pretrain import Plan, pretrain
from tools.tiny_base.score import score_base
from tools.tiny_base.tokenizer import make_tokenizer

FOLDER = BASES / NAME


def test_it_is_small_and_has_the_config_and_tokenizer_of_the_tool():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000
    tokenizer = make_tokenizer()
    assert (FOLDER / "tokenizer.json").read_text(encoding="utf-8") == tokenizer.to_str(pretty=True)
    assert load_base(NAME, "cpu").config == tiny_config(tokenizer.get_vocab_size())


def test_held_out_scores_are_near_those_of_the_card():
    """60 scenes: a loose bound, for a broken file or a changed forward pass, not for a small loss of quality."""
    scores = score_base(FOLDER, 60, seed=7)
    recorded = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))
    for skill in ("detect", "point", "query"):
        assert abs(scores[skill].value - recorded[skill]["value"]) < 0.15, skill


@pytest.mark.slow
def test_a_run_by_steps_repeats_bit_for_bit(tmp_path: Path):
    weights: list[bytes] = []
    for name in ("first", "second"):
        plan = Plan(out=tmp_path / name, cache=tmp_path / "cache", limit_s=0.0, steps=3, scenes=40, images=4)
        pretrain(plan)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
