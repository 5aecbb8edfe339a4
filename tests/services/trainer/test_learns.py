"""Reinforcement end to end on one decision: what is rewarded grows, and a reward that says nothing teaches nothing."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.imaging.crops import CropLayout, cut_crops
from moontune.imaging.decode import decode_image
from moontune.model.decisions import Phase
from moontune.model.inputs import prefill
from moontune.model.prompt import build_prompt
from moontune.model.sampling import allowed_tokens, log_distribution
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head, Rollout
from moontune.values.skill import Skill
from moontune.values.training import LossKind, RlGroup, TrainSettings
from tests.fakes.tiny_base import tiny_base
from tests.services.trainer.made import OUTPUTS, Bench, policy_of, request

GROUPS, ROLLOUTS, STEPS = 4, 16, 25
SETTINGS = TrainSettings(learning_rate=2e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def first_tokens(bench: Bench, asked: SkillRequest) -> torch.Tensor:
    """The policy's distribution over the first token, as the sampler has it."""
    own, image = bench.learner._base, asked.image
    assert image is not None
    assert image.data is not None
    vision = own.config.vision
    cut = CropLayout(vision.crop_size, vision.overlap_margin * vision.patch_size, vision.max_crops)
    bench.learner._adapters.activate(bench.finetune.id)
    with torch.no_grad():
        embeds = own.module.encode_image(cut_crops(decode_image(image.data, ""), cut))
        hidden = prefill(own.module, [embeds], [build_prompt(asked, own.config, own.tokenizer)]).hidden_BD
        allowed = allowed_tokens([Phase.ANSWER], own.config, own.module.device)
        found = log_distribution(own.module.token_logits(hidden), torch.ones(1), allowed)[0]
    bench.learner._adapters.activate(None)
    return found


def rewarded_mass(bench: Bench, asked: list[SkillRequest]) -> float:
    """Probability of an even token, which is what the reward likes; the mean over the prompts."""
    return sum(float(first_tokens(bench, one).exp()[::2].sum()) for one in asked) / len(asked)


def run(bench: Bench, asked: list[SkillRequest], settings: TrainSettings, *, shuffled: bool) -> tuple[float, float]:
    """The rewarded mass before and after."""
    generator, rng = torch.Generator().manual_seed(5), random.Random(6)
    before = rewarded_mass(bench, asked)
    for _ in range(STEPS):
        sampled: list[tuple[SkillRequest, list[Rollout]]] = []
        for one in asked:
            logprobs = first_tokens(bench, one)
            tokens = torch.multinomial(logprobs.exp(), ROLLOUTS, replacement=True, generator=generator).tolist()
            rollouts = [
                Rollout(
                    Skill.QUERY,
                    OUTPUTS[Skill.QUERY],
                    (Decision(Head.TOKEN, token, float(logprobs[token])),),
                    FinishReason.LENGTH,
                    policy_of(bench.finetune),
                    0,
                    1.0,
                )
                for token in tokens
            ]
            sampled.append((one, rollouts))
        rewards = [float(each.decisions[0].choice % 2 == 0) for _, rollouts in sampled for each in rollouts]
        if shuffled:
            rng.shuffle(rewards)
        groups = [
            RlGroup(one, tuple(rollouts), tuple(rewards[i * ROLLOUTS : (i + 1) * ROLLOUTS]))
            for i, (one, rollouts) in enumerate(sampled)
        ]
        outcome = bench.train(groups, settings)
        assert outcome.written is None or outcome.metrics["mismatch_kl"] < 1e-8  # what was sampled is what is trained
    return before, rewarded_mass(bench, asked)


@pytest.mark.parametrize("kind", [LossKind.DAPO, LossKind.CISPO, LossKind.RLOO])
def test_what_is_rewarded_grows(base, tmp_path: Path, kind: LossKind) -> None:
    asked = [request(Skill.QUERY, seed) for seed in range(GROUPS)]
    before, after = run(Bench(base, tmp_path), asked, replace(SETTINGS, loss=kind), shuffled=False)
    assert before < 0.7
    assert after > 0.95


def test_a_shuffled_reward_teaches_nothing(base, tmp_path: Path) -> None:
    asked = [request(Skill.QUERY, seed) for seed in range(GROUPS)]
    before, after = run(Bench(base, tmp_path), asked, SETTINGS, shuffled=True)
    assert abs(after - before) < 0.2
