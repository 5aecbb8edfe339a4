"""Finetunes of kind full and lora+region beside plain LoRA: what is trained, what is kept, what is left alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moontune.errors import CheckpointCorrupt
from moontune.model.base_model import load_base, share_base
from moontune.model.presets import MOONDREAM2_05B
from moontune.values.finetune import FinetuneKind, LoraSettings, LoraTarget
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings
from services.trainer.orders import ScoreOrder
from services.trainer.step_folder import read_optimiser
from tests.fakes.tiny_base import CONFIG, tiny_base, write_tiny_base
from tests.services.trainer.made import Bench, Calling, policy_of, rl_group, sft_group

SETTINGS = TrainSettings(learning_rate=1e-3)
VISION_TOO = LoraSettings(targets=tuple(LoraTarget))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def weights(bench: Bench) -> dict[str, torch.Tensor]:
    return load_file(bench.step_folder / "adapter_model.safetensors")


@pytest.mark.parametrize("lora", [LoraSettings(), VISION_TOO], ids=["vision frozen", "vision too"])
def test_a_full_finetune_trains_every_tensor_of_its_parts(base, tmp_path: Path, lora: LoraSettings) -> None:
    before = {name: parameter.detach().clone() for name, parameter in base.module.named_parameters()}
    bench = Bench(base, tmp_path, lora, kind=FinetuneKind.FULL)
    start = weights(bench)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.items())
    assert {name.partition(".")[0] for name in start} == {"text", "region"} | (
        {"vision"} if lora is VISION_TOO else set()
    )
    for skill in (Skill.DETECT, Skill.QUERY):
        assert bench.train([sft_group(skill, 1)], SETTINGS).metrics["grad_norm"] > 0
    moved = {name for name, tensor in weights(bench).items() if not torch.equal(tensor, before[name])}
    # The Fourier features of coordinates and sizes are parameters that no input of this step reached, if any.
    assert len(moved) > 0.9 * len(start)
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.module.named_parameters())


@pytest.mark.parametrize("kind", [FinetuneKind.FULL, FinetuneKind.LORA_REGION])
def test_resume_from_files_is_bit_exact(base, tmp_path: Path, kind: FinetuneKind) -> None:
    straight, resumed = Bench(base, tmp_path / "a", kind=kind), Bench(base, tmp_path / "b", kind=kind)
    for seed in range(3):
        group = straight.on_policy(rl_group(Skill.DETECT, seed, policy_of(straight.finetune)))
        resumed.restart()
        assert straight.train([group, sft_group(Skill.POINT, seed)], SETTINGS).written
        assert resumed.train([group, sft_group(Skill.POINT, seed)], SETTINGS).written
    assert straight.finetune.adapter_digest == resumed.finetune.adapter_digest
    ours, theirs = (read_optimiser(each.step_folder).moments for each in (straight, resumed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_lora_and_region_trains_the_head_whole(base, tmp_path: Path) -> None:
    bench = Bench(base, tmp_path, kind=FinetuneKind.LORA_REGION)
    before = weights(bench)
    head = [name for name in before if "region." in name and "lora_" not in name]
    assert any("coord_decoder" in name for name in head)
    bench.train([sft_group(Skill.DETECT, 1)], SETTINGS)
    after = weights(bench)
    assert any(not torch.equal(before[name], after[name]) for name in head)


def test_kinds_live_side_by_side(base, tmp_path: Path) -> None:
    """Turn by turn on one learner, each as if it were alone."""
    together, alone = [], []
    shared = None
    for number, kind in enumerate(FinetuneKind):
        one = Bench(base, tmp_path / f"t{number}", kind=kind, name=f"01HZZZZZZZZZZZZZZZZZZZZZZ{number}", learner=shared)
        shared = one.learner
        together.append(one)
        alone.append(Bench(base, tmp_path / f"a{number}", kind=kind, name=one.finetune.id))
    for seed in range(2):
        for one, other in zip(together, alone, strict=True):
            group = one.on_policy(rl_group(Skill.DETECT, seed, policy_of(one.finetune)))
            outcomes = [each.train([group], replace(SETTINGS, kl_weight=0.1)) for each in (one, other)]
            assert outcomes[0].written
            assert outcomes[0].written == outcomes[1].written
    # And the bare base answers as it did before any of them.
    group = rl_group(Skill.DETECT, 5, policy_of(together[0].finetune))
    fresh = Bench(base, tmp_path / "fresh")
    found = [
        bench.learner.score(Calling(), ScoreOrder(None, "", str(bench.spool([group]).folder), 1))
        for bench in (together[0], fresh)
    ]
    assert found[0] == found[1]


def test_damaged_tensors_are_told(base, tmp_path: Path) -> None:
    bench = Bench(base, tmp_path, kind=FinetuneKind.FULL)
    adapters = bench.learner._adapters
    (bench.step_folder / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointCorrupt, match="not a whole safetensors file"):
        adapters.load("x", bench.step_folder)
    assert "x" not in adapters.names
    assert share_base(base).module is not base.module


def test_a_full_finetune_of_the_05b_models_shape(tmp_path: Path) -> None:
    """Moondream 0.5B's layout with narrow layers: its depth, heads and region head; trained, resumed bit for bit."""
    big, small = MOONDREAM2_05B, CONFIG
    heads = big.text.heads
    config = replace(
        big,
        name="narrow-05b",
        vision=replace(small.vision, layers=big.vision.layers),
        text=replace(big.text, dim=8 * heads, ff_dim=16 * heads, rotary_dim=4, vocab_size=small.text.vocab_size),
        region=small.region,
        tokenizer=small.tokenizer,
    )
    base = load_base(str(write_tiny_base(tmp_path / "base", config=config)), device="cpu")
    assert len(base.module.text.blocks) == big.text.layers
    straight, resumed = (Bench(base, tmp_path / name, kind=FinetuneKind.FULL) for name in "ab")
    for seed in range(2):
        resumed.restart()
        for bench in (straight, resumed):
            assert bench.train([sft_group(Skill.DETECT, seed), sft_group(Skill.QUERY, seed)], SETTINGS).written
    assert straight.finetune.adapter_digest == resumed.finetune.adapter_digest
    start = dict(base.module.named_parameters())
    moved = [name for name, tensor in weights(straight).items() if not torch.equal(tensor, start[name])]
    assert sum(name.startswith("text.blocks.") for name in moved) > 0.9 * big.text.layers * 8
