"""bf16 autocast: near the fp32 gradient, everything kept in fp32, heads computed in fp32, resumed bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moontune.model.base_model import share_base
from moontune.values.finetune import FinetuneKind, LoraSettings, LoraTarget
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings
from services.trainer.learner import Learner
from services.trainer.orders import LearnerOptions
from tests.fakes.tiny_base import tiny_base
from tests.services.trainer.made import Bench, gradient_of, policy_of, rl_group, sft_group

SETTINGS = TrainSettings(learning_rate=1e-3)
ADAPTER = LoraSettings(4, targets=(LoraTarget.TEXT_ATTENTION, LoraTarget.TEXT_MLP, LoraTarget.REGION))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def bench_of(base, folder: Path, kind: FinetuneKind, *, autocast: bool, recompute: bool = False) -> Bench:
    options = LearnerOptions(autocast=autocast, recompute=recompute)
    made = Bench(base, folder, ADAPTER, kind=kind, learner=Learner(share_base(base), options))
    made.options = options
    return made


@pytest.mark.parametrize("kind", list(FinetuneKind))
def test_the_gradient_is_near_that_of_fp32(base, tmp_path: Path, kind: FinetuneKind) -> None:
    single = bench_of(base, tmp_path / "single", kind, autocast=False)
    mixed = bench_of(base, tmp_path / "mixed", kind, autocast=True)
    again = bench_of(base, tmp_path / "again", kind, autocast=True, recompute=True)
    groups = [rl_group(Skill.DETECT, 1, policy_of(single.finetune), verified=False), sft_group(Skill.QUERY, 2)]
    exact, near, recomputed = (gradient_of(each, groups, SETTINGS) for each in (single, mixed, again))
    share = float((near - exact).norm() / exact.norm())
    assert 1e-5 < share < 0.08  # bf16 has 8 bits: not fp32 (it acts), and not something else
    assert (recomputed - near).norm() < 1e-6 * near.norm()


@pytest.mark.parametrize("kind", [FinetuneKind.LORA, FinetuneKind.FULL])
def test_what_is_kept_is_fp32_and_a_resume_is_exact(base, tmp_path: Path, kind: FinetuneKind) -> None:
    straight = bench_of(base, tmp_path / "a", kind, autocast=True)
    resumed = bench_of(base, tmp_path / "b", kind, autocast=True)
    for seed in range(3):
        group = rl_group(Skill.DETECT, seed, policy_of(straight.finetune), verified=False)
        resumed.restart()
        for bench in (straight, resumed):
            assert bench.train([group, sft_group(Skill.QUERY, seed)], replace(SETTINGS, kl_weight=0.1)).written
    assert straight.finetune.adapter_digest == resumed.finetune.adapter_digest
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        kept = {key: tensor for key, tensor in load_file(straight.step_folder / name).items() if key != "rng"}
        assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


def test_heads_see_and_give_fp32(base, tmp_path: Path) -> None:
    bench = bench_of(base, tmp_path, FinetuneKind.LORA, autocast=True)
    seen: list[torch.dtype] = []
    module = bench.learner._base.module
    module.text.lm_head.register_forward_hook(lambda _, given, out: seen.extend((given[0].dtype, out.dtype)))
    module.text.blocks[0].mlp.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
    assert bench.train([sft_group(Skill.QUERY, 1)], SETTINGS).written
    assert seen == [torch.bfloat16, torch.float32, torch.float32]
