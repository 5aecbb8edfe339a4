import json
import threading
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from moontune.errors import CheckpointCorrupt, InvalidField
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora import Adapters
from moontune.model.moondream import Moondream
from moontune.values.finetune import LoraSettings, LoraTarget

ALL = tuple(LoraTarget)


def answer(model: Moondream) -> torch.Tensor:
    """Numbers that every target has a part in."""
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    features = model.encode_crops(pixels)
    values = torch.tensor([0.2, 0.7])
    embeds = torch.cat(
        (
            model.project(features, features),
            model.embed_tokens(torch.tensor([[1, 40, 3]])),
            model.embed_coords(values)[None],
            model.embed_sizes(values[None])[None],
        ),
        dim=1,
    )
    hidden = model.hidden(embeds, torch.arange(embeds.shape[1])[None])[0, -1]
    return torch.cat((model.token_logits(hidden), model.coord_logits(hidden), model.size_logits(hidden).flatten()))


def randomise(adapters: Adapters, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters(name).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.fixture
def model(base: BaseModel) -> Moondream:
    return share_base(base).module


@torch.no_grad()
def test_a_fresh_adapter_equals_the_base(model: Moondream) -> None:
    before = answer(model)
    adapters = Adapters(model)
    adapters.attach("a", LoraSettings(rank=4, targets=ALL))
    adapters.activate("a")
    assert torch.equal(answer(model), before)


@pytest.mark.parametrize(("target", "layers"), [("text_attention", 4), ("text_mlp", 4), ("region", 6), ("vision", 10)])
def test_each_target_acts_and_gets_gradients(model: Moondream, target: str, layers: int) -> None:
    adapters = Adapters(model)
    adapters.attach("a", LoraSettings(rank=4, targets=(LoraTarget(target),)))
    assert len(adapters.parameters("a")) == 2 * layers
    before = answer(model)
    randomise(adapters, "a", 0)
    adapters.activate("a")
    after = answer(model)
    assert (after - before).abs().max() > 1e-3
    after.square().sum().backward()
    for name, parameter in adapters.parameters("a").items():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 0, name
    base_parameters = [p for name, p in model.named_parameters() if "lora_" not in name]
    assert not any(parameter.requires_grad for parameter in base_parameters)
    assert all(parameter.grad is None for parameter in base_parameters)


@torch.no_grad()
def test_by_hand(model: Moondream) -> None:
    """The layer's output moves by alpha / rank * B A x."""
    adapters = Adapters(model)
    layer = model.text.blocks[0].attn.qkv
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    plain = layer(x)
    adapters.attach("a", LoraSettings(rank=4, alpha=6.0))
    randomise(adapters, "a", 1)
    adapters.activate("a")
    own = adapters.parameters("a")
    a, b = (own[f"text.blocks.0.attn.qkv.lora_{part}.weight"] for part in "AB")
    torch.testing.assert_close(model.text.blocks[0].attn.qkv(x), plain + 1.5 * x @ a.T @ b.T)


@torch.no_grad()
def test_adapters_of_other_ranks_and_targets_live_side_by_side(model: Moondream) -> None:
    bare = answer(model)
    adapters = Adapters(model)
    forms = {
        "a": LoraSettings(rank=2),
        "b": LoraSettings(rank=8, targets=(LoraTarget.VISION,)),
        "c": LoraSettings(rank=3),
    }
    seen: dict[str, torch.Tensor] = {}
    for seed, (name, spec) in enumerate(forms.items()):
        adapters.attach(name, spec)
        randomise(adapters, name, seed)
        adapters.activate(name)
        seen[name] = answer(model)
    for name, wanted in seen.items():
        adapters.activate(name)
        assert torch.equal(answer(model), wanted)
        with adapters.off():
            assert torch.equal(answer(model), bare)
        assert adapters.active == name
    adapters.remove("c")
    assert torch.equal(answer(model), bare)
    adapters.activate("b")
    assert torch.equal(answer(model), seen["b"])
    assert adapters.names == ("a", "b")
    with pytest.raises(KeyError, match="'c' is not attached"):
        adapters.activate("c")


def test_only_the_active_adapter_learns(model: Moondream) -> None:
    adapters = Adapters(model)
    for name in ("a", "b"):
        adapters.attach(name, LoraSettings(rank=2))
    adapters.activate("b")
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all(".b." in name for name in trainable)
    with adapters.off():
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable


def test_a_seed_gives_the_same_start_and_torchs_own_generator_does_not_matter(base: BaseModel) -> None:
    starts: list[dict[str, torch.Tensor]] = []
    for global_seed, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(global_seed)
        adapters = Adapters(share_base(base).module)
        adapters.attach("a", LoraSettings(rank=4, seed=seed))
        starts.append({name: value.detach().clone() for name, value in adapters.parameters("a").items()})
    first, again, other = starts
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@torch.no_grad()
def test_a_peft_directory_round_trips_and_peft_reads_it(base: BaseModel, tmp_path: Path) -> None:
    adapters = Adapters(share_base(base).module)
    adapters.attach("a", LoraSettings(rank=4, alpha=5.0, targets=ALL))
    randomise(adapters, "a", 3)
    adapters.save("a", tmp_path / "adapter")
    adapters.activate("a")
    wanted = answer(adapters._module)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    again = Adapters(share_base(base).module)
    assert again.load("other name", tmp_path / "adapter") == LoraSettings(rank=4, alpha=5.0, targets=ALL)
    again.activate("other name")
    assert torch.equal(answer(again._module), wanted)
    by_peft = share_base(base).module
    PeftModel.from_pretrained(by_peft, str(tmp_path / "adapter"))
    assert torch.equal(answer(by_peft), wanted)


def write_adapter(base: BaseModel, folder: Path) -> dict[str, torch.Tensor]:
    adapters = Adapters(share_base(base).module)
    adapters.attach("a", LoraSettings(rank=2))
    adapters.save("a", folder)
    return load_file(folder / "adapter_model.safetensors")


def test_misfits_are_listed_at_once_and_nothing_is_attached(base: BaseModel, tmp_path: Path) -> None:
    state = write_adapter(base, tmp_path)
    prefix = "base_model.model.text.blocks.0.attn."
    del state[prefix + "qkv.lora_B.weight"]
    state[prefix + "proj.lora_B.weight"] = torch.zeros(7, 2)
    state["base_model.model.text.blocks.9.mlp.fc1.lora_A.weight"] = torch.zeros(2, 48)
    state["base_model.model.text.blocks.1.mlp.fc1.lora_A.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "adapter_model.safetensors")
    adapters = Adapters(share_base(base).module)
    with pytest.raises(InvalidField) as caught:
        adapters.load("x", tmp_path)
    assert len(caught.value.violations) == 4
    assert "qkv.lora_B.weight is missing" in caught.value.message
    assert "proj.lora_B.weight has shape [7, 2], allowed: [48, 2]" in caught.value.message
    assert adapters.names == ()


def test_damaged_directories(base: BaseModel, tmp_path: Path) -> None:
    adapters = Adapters(share_base(base).module)
    with pytest.raises(CheckpointCorrupt, match="not a whole PEFT directory"):
        adapters.load("x", tmp_path / "absent")
    write_adapter(base, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(InvalidField, match="a LORA with a lora_alpha"):
        adapters.load("x", tmp_path)
    for other in ({"use_rslora": True}, {"alpha_pattern": {"qkv": 3}}):  # peft would scale these otherwise
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | other))
        with pytest.raises(InvalidField, match=f"{next(iter(other))}.*a plain LORA"):
            adapters.load("x", tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointCorrupt):
        adapters.load("x", tmp_path)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (LoraSettings(rank=0), "rank"),
        (LoraSettings(rank=257), "rank"),
        (LoraSettings(alpha=-1.0), "alpha"),
        (LoraSettings(alpha=float("nan")), "alpha"),
        (LoraSettings(targets=()), "targets"),
    ],
)
def test_forms_that_cannot_be(model: Moondream, spec: LoraSettings, field: str) -> None:
    with pytest.raises(InvalidField, match=rf"lora\.{field}"):
        Adapters(model).attach("a", spec)


def test_an_adapter_in_one_tree_never_leaks_into_the_other(base: BaseModel) -> None:
    """One thread trains B while the other answers with A, over the same base weights."""
    engine, learner = share_base(base), share_base(base)
    serving, training = Adapters(engine.module), Adapters(learner.module)
    serving.attach("a", LoraSettings(rank=4))
    randomise(serving, "a", 1)
    serving.activate("a")
    training.attach("b", LoraSettings(rank=4))
    training.activate("b")
    with torch.no_grad():
        bare, wanted = answer(base.module), answer(engine.module)
    parameters = list(training.parameters("b").values())
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    losses: list[float] = []

    def train() -> None:
        for _ in range(20):
            loss = answer(learner.module).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())

    thread = threading.Thread(target=train)
    thread.start()
    with torch.no_grad():
        answers = [answer(engine.module) for _ in range(20)]
    thread.join()
    assert losses[-1] < losses[0]
    assert all(torch.equal(given, wanted) for given in answers)
    with torch.no_grad():
        assert torch.equal(answer(base.module), bare)
        assert torch.equal(answer(share_base(learner).module), bare), "a tree shared from an adapted one is bare"
