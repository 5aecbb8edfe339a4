import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moontune.errors import CheckpointCorrupt, InvalidField, ModelNotFound, MoontuneError
from moontune.model.base_model import BaseModel, load_base, share_base
from moontune.model.config import MoondreamConfig
from moontune.model.device import choose_device
from tests.fakes.tiny_base import CONFIG, write_tiny_base

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_base(tmp_path / "base")


def test_loads_what_was_stored(folder: Path) -> None:
    base = load_base(str(folder), device="cpu")
    stored = load_file(folder / WEIGHTS)
    loaded = dict(base.module.named_parameters())
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert base.config == CONFIG
    assert base.device == "cpu"
    assert not any(parameter.requires_grad for parameter in loaded.values())


def test_bf16_is_computed_in_fp32_on_the_cpu_and_a_prefix_is_accepted(folder: Path) -> None:
    stored = {f"model.{name}": value.bfloat16() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(stored, folder / WEIGHTS)
    base = load_base(str(folder), device="cpu")
    assert {parameter.dtype for parameter in base.module.parameters()} == {torch.float32}
    assert torch.equal(base.module.text.wte, stored["model.text.wte"].float())


def test_a_sharded_index_loads_alike(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    (folder / WEIGHTS).unlink()
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    base = load_base(str(folder), device="cpu")
    assert torch.equal(base.module.text.lm_head.weight, state["text.lm_head.weight"])
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"lacks b\.safetensors"):
        load_base(str(folder))


def test_the_digest_covers_every_file(folder: Path) -> None:
    first = load_base(str(folder)).digest
    assert first.startswith("sha256:")
    assert load_base(str(folder)).digest == first
    (folder / "config.json").write_text(CONFIG.to_json().replace('"tiny-fake"', '"renamed"'))
    second = load_base(str(folder)).digest
    save_file({name: value * 1.001 for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    assert len({first, second, load_base(str(folder)).digest}) == 3


def test_every_misfit_is_listed_at_once(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["text.wte"], state["vision.pos_emb"]
    state["text.extra"] = torch.zeros(2)
    state["region.coord_features"] = torch.zeros(1, 3)
    save_file(state, folder / WEIGHTS)
    with pytest.raises(InvalidField) as caught:
        load_base(str(folder))
    for part in (
        "text.wte is missing",
        "vision.pos_emb is missing",
        "text.extra is not a parameter of this architecture",
        "region.coord_features has shape [1, 3], the config needs [1, 8]",
    ):
        assert part in caught.value.message
    assert len(caught.value.violations) == 4


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["text.wte"][3, 3] = float("nan")
    state["text.post_ln.bias"][0] = float("inf")
    save_file(state, folder / WEIGHTS)
    with pytest.raises(InvalidField, match=r"text\.wte has values that are not finite.*text\.post_ln\.bias has"):
        load_base(str(folder))


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def scramble(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"not safetensors at all")


def pack(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({**state, "text.wte": torch.zeros(266, 48, dtype=torch.uint8)}, folder / WEIGHTS)


def lose_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def lose_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def shrink_vocabulary(folder: Path) -> None:
    text = CONFIG.to_json().replace('"vocab_size": 266', '"vocab_size": 200')
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "kind", "complaint"),
    [
        (truncate, CheckpointCorrupt, "not a whole safetensors file"),
        (scramble, CheckpointCorrupt, "not a whole safetensors file"),
        (pack, InvalidField, "stored as U8, allowed: F32, BF16, F16"),
        (lose_weights, InvalidField, r"a folder with model\.safetensors"),
        (lose_tokenizer, InvalidField, "tokenizers file"),
        (shrink_vocabulary, InvalidField, "below the weights' vocabulary of 200"),
    ],
)
def test_damaged_folders(folder: Path, damage: object, kind: type[MoontuneError], complaint: str) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(kind, match=complaint):
        load_base(str(folder))


def test_an_unknown_base_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="'nowhere' is not here"):
        load_base("nowhere")


def test_the_config_reports_every_problem_at_once() -> None:
    tree = json.loads(CONFIG.to_json())
    del tree["text"]["dim"], tree["name"]
    tree["vision"]["extra"] = 1
    tree["region"]["inner_dim"] = "wide"
    tree["tokenizer"]["query"]["prefix"] = [1, "x"]
    with pytest.raises(InvalidField) as caught:
        MoondreamConfig.from_json(json.dumps(tree))
    assert {violation.field for violation in caught.value.violations} == {
        "config.text.dim",
        "config.name",
        "config.vision.extra",
        "config.region.inner_dim",
        "config.tokenizer.query.prefix[1]",
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"name": "x"', "\\ud800"])
def test_what_is_no_config(text: str) -> None:
    with pytest.raises(InvalidField, match="the model config does not fit: config is "):
        MoondreamConfig.from_json(text)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text", "heads", 5),
        ("text", "rope_theta", float("nan")),
        ("text", "kv_heads", 2),
        ("text", "rotary_dim", 18),
        ("text", "rotary_dim", 7),
        ("text", "max_context", 17),
        ("text", "layers", 0),
        ("vision", "crop_size", 33),
        ("vision", "overlap_margin", 2),
        ("region", "coord_feature_dim", 15),
        ("tokenizer", "eos_id", 266),
    ],
)
def test_sizes_that_contradict_each_other(part: str, name: str, value: int) -> None:
    tree = json.loads(CONFIG.to_json())
    tree[part][name] = value
    with pytest.raises(InvalidField, match=rf"config\.{part}\.{name}"):
        MoondreamConfig.from_json(json.dumps(tree))


def test_config_round_trip() -> None:
    assert MoondreamConfig.from_json(CONFIG.to_json()) == CONFIG


def test_shared_bases_are_two_trees_over_one_storage(base: BaseModel) -> None:
    other = share_base(base)
    ours, theirs = dict(base.module.named_parameters()), dict(other.module.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert not {id(module) for module in base.module.modules()} & {id(module) for module in other.module.modules()}
    assert other.digest == base.digest


@pytest.mark.parametrize("wanted", ["gpu", "cpu:x", "npu:7", ""])
def test_devices_that_are_not_here(wanted: str) -> None:
    with pytest.raises(InvalidField, match="device"):
        choose_device(wanted)


def test_user_text_never_becomes_a_special_token(base: BaseModel) -> None:
    ids = base.tokenizer.encode("a <eos> b")
    assert min(ids) >= 10
    assert base.tokenizer.decode(ids) == "a <eos> b"
    assert base.tokenizer.decode([0, *ids, 0]) == "a <eos> b"
    assert base.tokenizer.decode(base.tokenizer.encode("Ünïcode ✓ 漢字 🌙")) == "Ünïcode ✓ 漢字 🌙"
