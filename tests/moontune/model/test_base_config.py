"""A published repository's folder is a base as it is: its own config.json, its shards, its names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moontune.errors import InvalidField
from moontune.model.base_config import read_config
from moontune.model.base_model import load_base
from moontune.model.config import MoondreamConfig, Vocabulary
from moontune.model.presets import MOONDREAM2, MOONDREAM2_05B
from moontune.model.published_config import published_config
from moontune.model.verify import problems_of
from tests.fakes.published import SMALL2, SMALL3, published_sections, write_published
from tests.fakes.tiny_base import write_tiny_base


@pytest.mark.parametrize("config", [SMALL2, SMALL3], ids=lambda config: config.name)
def test_a_repositorys_folder_loads_as_it_is(tmp_path: Path, config: MoondreamConfig) -> None:
    state = write_published(tmp_path, config, shards=3)
    base = load_base(str(tmp_path), device="cpu")
    assert base.config == config
    assert read_config(tmp_path) == config, "from the files' headers alone"
    assert problems_of(tmp_path) == []
    for name, parameter in base.module.named_parameters():
        assert torch.equal(parameter, state[name]), name


def test_a_torch_file_beside_it(tmp_path: Path) -> None:
    write_published(tmp_path, SMALL2)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "model.pt")
    (tmp_path / "model.safetensors").unlink()
    assert load_base(str(tmp_path), device="cpu").config == SMALL2
    with pytest.raises(InvalidField, match="safetensors weights beside a published config"):
        read_config(tmp_path)


def test_what_a_config_leaves_out_is_the_published_models() -> None:
    """The hub's says `"config": {}`; only how heads are grouped and what the region head is comes from the weights."""
    shapes = {"text.blocks.0.attn.qkv.bias": (3 * 2048,), "region.coord_decoder.fc1.bias": (8192,)}
    assert published_config({}, shapes) == MOONDREAM2


def test_weights_that_are_older_want_the_older_tokenizer() -> None:
    shapes = {"text.blocks.0.attn.qkv.bias": (3 * 2048,)}
    given = published_config({"tokenizer": {"bos_id": 50_256, "eos_id": 50_256}}, shapes)
    assert given.tokenizer.vocabulary is Vocabulary.GPT2 is MOONDREAM2_05B.tokenizer.vocabulary


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("text", {"n_heads": 0}, "config"),
        ("text", {"dim": "wide"}, "config"),
        ("text", {"dim": -128}, "config"),
        ("text", [], "config of Moondream's public implementation"),
        ("vision", {"crop_size": 31}, r"config\.vision\.crop_size"),
        ("vision", {"enc_n_layers": 2.5}, r"config\.vision\.layers"),
        ("tokenizer", {"bos_id": "0"}, r"config\.tokenizer\.bos_id"),
        ("tokenizer", {"templates": {"query": 3}}, "config"),
        ("tokenizer", {"strange_id": 3}, "strange_id"),
    ],
)
def test_a_config_that_makes_no_sense(tmp_path: Path, section: str, value: Any, said: str) -> None:
    sections = published_sections(SMALL2)
    sections[section] = {**sections.get(section, {}), **value} if isinstance(value, dict) else 3
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "moondream1", "config": sections}))
    shapes = {"text.blocks.0.attn.qkv.bias": (3 * 128,)}
    with pytest.raises(InvalidField, match=said):
        read_config(tmp_path, lambda: shapes)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 50_000, '{"model_type": 1, "config": 7}', "\udcff"])
def test_a_config_that_is_none(tmp_path: Path, content: str) -> None:
    write_tiny_base(tmp_path)
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidField):
        load_base(str(tmp_path), device="cpu")
    assert problems_of(tmp_path)


def test_sizes_that_are_not_the_weights_are_listed(tmp_path: Path) -> None:
    write_published(tmp_path, SMALL2)
    wider = replace(SMALL2, text=replace(SMALL2.text, ff_dim=512))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "config": published_sections(wider)}))
    with pytest.raises(InvalidField, match=r"mlp\.fc1\.weight has shape \[256, 128\], the config needs \[512, 128\]"):
        load_base(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text", "layers", 100_000),
        ("text", "dim", 10**15),
        ("vision", "patch_size", 10**6),
        ("region", "bins", 1 << 40),
    ],
)
def test_sizes_that_only_a_slip_or_an_attack_can_mean(tmp_path: Path, part: str, name: str, value: int) -> None:
    """Told at once, before anything of that size is built."""
    write_tiny_base(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    tree[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(InvalidField, match=rf"config\.{part}\.{name} must be at most"):
        load_base(str(tmp_path), device="cpu")
