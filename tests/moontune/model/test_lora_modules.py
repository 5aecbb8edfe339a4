"""LoRA on stacked experts and beside the attention, and an adapter with a region head of its own."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from moontune.errors import InvalidField
from moontune.model.adapter_tensors import AdapterTensors
from moontune.model.base_model import BaseModel, load_base, share_base
from moontune.model.lora import Adapters
from moontune.model.lora_modules import expert_delta
from moontune.model.moondream import Moondream
from moontune.values.finetune import AttentionWiring, FinetuneKind, LoraSettings, LoraTarget
from tests.fakes.adapters import draw
from tests.fakes.families import MOONDREAM3
from tests.fakes.tiny_base import CONFIG, write_tiny_base

MLP = LoraSettings(4, 6.0, (LoraTarget.TEXT_MLP,))


@pytest.fixture(scope="module", params=[CONFIG, MOONDREAM3], ids=lambda config: config.name)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(write_tiny_base(tmp_path_factory.mktemp("base"), 3, request.param)), device="cpu")


def answer(model: Moondream) -> torch.Tensor:
    embeds = model.embed_tokens(torch.tensor([[1, 40, 3, 77, 200]]))
    hidden = model.hidden(embeds, torch.arange(5)[None])[0]
    return torch.cat((model.token_logits(hidden), model.coord_logits(hidden), model.size_logits(hidden).flatten(1)), 1)


def test_expert_delta_by_hand() -> None:
    """Rows 0 and 1 go to expert 0, none to expert 1, row 2 to expert 2; rank 1 each, in 2, out 1."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    a = torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.0, 1.0]])
    b = torch.tensor([[10.0, 90.0, 100.0]])
    assert expert_delta(x, a, b, torch.tensor([2, 2, 3], dtype=torch.int32)).flatten().tolist() == [10.0, 30.0, 600.0]


@torch.no_grad()
def test_an_adapter_on_experts_answers_as_the_merged_weights_do(base: BaseModel) -> None:
    adapter = draw(base.config, MLP)
    adapters = Adapters(share_base(base).module)
    adapters.attach_tensors("a", adapter)
    bare = answer(adapters._module)
    adapters.activate("a")
    acting = answer(adapters._module)
    assert (acting - bare).abs().max() > 1e-3
    merged = Moondream(base.config)
    merged.load_state_dict(base.module.state_dict())
    for name, pair in adapter.layers.items():
        merged.get_submodule(name).weight += adapter.scale * pair.b @ pair.a
    torch.testing.assert_close(acting, answer(merged), rtol=1e-4, atol=1e-4)
    with adapters.off():
        assert torch.equal(answer(adapters._module), bare)


def test_experts_and_shortcut_learn(base: BaseModel) -> None:
    adapters = Adapters(share_base(base).module)
    adapters.attach("a", LoraSettings(4, wiring=AttentionWiring.BLOCK_INPUT, seed=1))
    adapters.activate("a")
    with torch.no_grad():
        for name, parameter in adapters.parameters("a").items():
            if ".lora_B." in name:
                parameter.fill_(0.01)
    answer(adapters._module).square().sum().backward()
    norms = {name: parameter.grad for name, parameter in adapters.parameters("a").items()}
    assert any(".shortcut." in name for name in norms)
    assert not any(".attn.proj." in name for name in norms)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in norms.values())


@torch.no_grad()
def test_the_shortcut_adds_a_delta_of_the_blocks_input(base: BaseModel) -> None:
    """x + attn + mlp(h) gets scale B A h."""
    lora = LoraSettings(2, 3.0, (LoraTarget.TEXT_ATTENTION,), wiring=AttentionWiring.BLOCK_INPUT)
    adapter = draw(base.config, lora)
    adapters = Adapters(share_base(base).module)
    adapters.attach_tensors("a", adapter)
    adapters.activate("a")
    block = adapters._module.text.blocks[0]
    h = torch.randn(1, 3, 48, generator=torch.Generator().manual_seed(0))
    pair = adapter.layers["text.blocks.0.shortcut"]
    torch.testing.assert_close(block.shortcut(h), 1.5 * h @ pair.a.T @ pair.b.T)
    adapters.activate(None)
    assert block.shortcut(h) is None


@torch.no_grad()
def test_peft_itself_reads_an_adapter_on_experts(base: BaseModel, tmp_path: Path) -> None:
    adapters = Adapters(share_base(base).module)
    adapters.attach_tensors("a", draw(base.config, LoraSettings(4, 6.0)))
    adapters.save("a", tmp_path)
    adapters.activate("a")
    by_peft = share_base(base).module
    with warnings.catch_warnings():
        # peft looks for the patterns' keys among modules alone, and uses them for parameters all the same.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        PeftModel.from_pretrained(by_peft, str(tmp_path))
    torch.testing.assert_close(answer(by_peft), answer(adapters._module), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_region_head_of_ones_own_stands_in_while_the_adapter_acts(base: BaseModel, tmp_path: Path) -> None:
    adapter = draw(base.config, LoraSettings(2), region=True)
    tree = share_base(base).module
    adapters = Adapters(tree)
    bare = answer(tree)
    adapters.attach_tensors("a", adapter)
    adapters.attach("plain", LoraSettings(2, targets=(LoraTarget.REGION,)))
    assert torch.equal(answer(tree), bare)
    adapters.activate("a")
    assert adapters.kind("a") is FinetuneKind.LORA_REGION
    assert torch.equal(tree.region.coord_features, adapter.full["region.coord_features"])
    assert "region.size_features" in adapters.parameters("a")
    acting = answer(tree)
    adapters.save("a", tmp_path)
    again = Adapters(share_base(base).module)
    again.load("b", tmp_path)
    again.activate("b")
    assert torch.equal(answer(again._module), acting)
    adapters.remove("a")
    assert torch.equal(answer(tree), bare)


def test_two_wirings_at_once_are_refused(base: BaseModel) -> None:
    adapter = draw(base.config, LoraSettings(2, 3.0, wiring=AttentionWiring.BLOCK_INPUT))
    layers = {**adapter.layers, "text.blocks.0.attn.proj": adapter.layers["text.blocks.0.shortcut"]}
    with pytest.raises(InvalidField, match=r"text\.blocks\.0\.attn\.proj is not a layer of this adapter's targets"):
        AdapterTensors(adapter.lora, layers).check_fits(base.config)
