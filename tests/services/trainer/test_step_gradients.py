"""What a step's gradient is made of: groups of any size, mixed skills, penalties, and the clip over several passes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.values.finetune import LoraSettings, LoraTarget
from moontune.values.logprobs import DecisionScore
from moontune.values.rollout import Head
from moontune.values.skill import Skill
from moontune.values.training import HeadWeight, LossKind, RlGroup, TrainSettings
from services.trainer.orders import ScoreOrder
from services.trainer.sft import target_decisions
from tests.fakes.tiny_base import tiny_base
from tests.services.trainer.made import (
    Bench,
    Calling,
    close,
    double_bench,
    gradient_of,
    policy_of,
    rl_group,
    sft_group,
)

SETTINGS = TrainSettings(learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def bench(base, tmp_path: Path) -> Bench:
    made = Bench(base, tmp_path)
    assert made.train([sft_group(Skill.DETECT, 90)], SETTINGS).written
    return made


def on_policy(bench: Bench, skill: Skill, seed: int, rewards: tuple[float | None, ...] = (1.0, 0.0, 0.5)) -> RlGroup:
    return bench.on_policy(rl_group(skill, seed, policy_of(bench.finetune), rewards))


@pytest.fixture
def exact(tmp_path: Path) -> Iterator[Bench]:
    """As `bench`, all of it in fp64: what is left of a difference is not rounding."""
    with double_bench(tmp_path) as made:
        yield made


@pytest.mark.parametrize("kind", list(LossKind))
def test_a_group_larger_than_a_pass_is_split_and_nothing_changes(exact: Bench, kind: LossKind) -> None:
    rewards = tuple(index % 3 / 2 for index in range(12))
    # Off policy by a little, so that GSPO's ratio of a whole rollout and every clip have something to do.
    group = on_policy(exact, Skill.DETECT, 7, rewards)
    group = replace(
        group,
        rollouts=tuple(
            replace(rollout, decisions=tuple(replace(d, logprob=d.logprob - 0.05 * i) for d in rollout.decisions))
            for i, rollout in enumerate(group.rollouts)
        ),
    )
    settings = replace(SETTINGS, loss=kind, kl_weight=0.1, entropy_weight=0.01)
    whole = gradient_of(exact, [group], settings)
    for micro in (40, 100):  # at 40 every rollout is in a pass of its own
        assert (gradient_of(exact, [group], settings, micro) - whole).norm() < 1e-12 * whole.norm()


def test_a_mixed_step_is_the_mean_of_its_skills(exact: Bench) -> None:
    # 2 groups of 3 are queries: their mean weighs 2/3, the one detection 1/3, however many decisions it has.
    detect = on_policy(exact, Skill.DETECT, 1)
    queries = [on_policy(exact, Skill.QUERY, seed) for seed in (2, 3)]
    mixed = gradient_of(exact, [detect, *queries], SETTINGS)
    parts = gradient_of(exact, [detect], SETTINGS) / 3 + 2 * gradient_of(exact, queries, SETTINGS) / 3
    assert (mixed - parts).norm() < 1e-12 * mixed.norm()


def test_supervision_stands_beside_reinforcement(bench: Bench) -> None:
    group, lesson = on_policy(bench, Skill.QUERY, 2), sft_group(Skill.DETECT, 5)
    settings = replace(SETTINGS, sft_weight=0.25)
    both = gradient_of(bench, [group, lesson], settings)
    alone = gradient_of(bench, [group], settings) + gradient_of(bench, [lesson], settings)
    assert close(both, alone)
    assert close(
        gradient_of(bench, [lesson], replace(settings, sft_weight=0.5)), 2 * gradient_of(bench, [lesson], settings)
    )


def test_supervision_teaches_every_decision(bench: Bench) -> None:
    """Each head's share of the target's log-probability rises: go-on and stop, both coordinates, both sizes."""
    lesson = sft_group(Skill.DETECT, 5)
    taken, _ = target_decisions(lesson.request, lesson.target, bench.base.config, bench.base.tokenizer, "")
    attempt = replace(rl_group(Skill.DETECT, 5, policy_of(bench.finetune), (1.0,)).rollouts[0], decisions=taken)
    group = RlGroup(lesson.request, (attempt,), (1.0,))

    def told() -> dict[tuple[Head, int], float]:
        """Mean log-probability by head; of GO by its choice, 0 to stop and 1 to go on."""
        found: dict[tuple[Head, int], list[float]] = {}
        for decision, score in zip(taken, scores(bench, group, bare=False), strict=True):
            kind = decision.head, decision.choice if decision.head is Head.GO else 0
            found.setdefault(kind, []).append(score.logprob)
        return {kind: sum(values) / len(values) for kind, values in found.items()}

    before = told()
    for _ in range(20):
        bench.train([lesson], SETTINGS)
    after = told()
    assert len(before) == 6
    # Stop and go-on share one choice and pull against each other: both cannot rise at once from where they balance.
    go = [(Head.GO, 0), (Head.GO, 1)]
    assert all(after[kind] > before[kind] + 0.3 for kind in before if kind not in go)
    assert sum(after[kind] for kind in go) > sum(before[kind] for kind in go)


def scores(bench: Bench, group: RlGroup, *, bare: bool) -> list[DecisionScore]:
    spool = bench.spool([group])
    finetune, folder = (None, "") if bare else (bench.finetune, str(bench.step_folder))
    return [
        each
        for rollout in bench.learner.score(Calling(), ScoreOrder(finetune, folder, str(spool.folder), 1))
        for each in rollout
    ]


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("targets", [(LoraTarget.TEXT_MLP,), (LoraTarget.TEXT_MLP, LoraTarget.VISION)])
def test_the_reference_sees_the_image_with_the_bases_eyes(base, tmp_path: Path, targets, weight: float) -> None:
    """KL over text tokens is k3 of the log-probabilities of adapter and bare base, vision tower and all."""
    bench = Bench(base, tmp_path, LoraSettings(4, targets=targets))
    for _ in range(5):
        bench.train([sft_group(Skill.QUERY, 90)], replace(SETTINGS, learning_rate=5e-2))
    group = on_policy(bench, Skill.QUERY, 3, (1.0, 0.0))
    now, bare = (torch.tensor([s.logprob for s in scores(bench, group, bare=b)]) for b in (False, True))
    u = bare - now
    expected = float((u.exp() - 1 - u).mean())
    found = bench.train([group], replace(SETTINGS, kl_weight=weight)).metrics["kl_token"]
    assert expected > 1e-3
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_entropy_bonus_is_per_head(bench: Bench) -> None:
    group = on_policy(bench, Skill.DETECT, 1)
    plain = gradient_of(bench, [group], SETTINGS)

    def bonus(**settings) -> torch.Tensor:
        return gradient_of(bench, [group], replace(SETTINGS, **settings)) - plain

    each = [bonus(entropy_heads=(HeadWeight(head, 0.1),)) for head in Head]
    assert each[0].norm() == 0.0  # no token among a detection's decisions
    assert all(part.norm() > 1e-6 for part in each[1:])
    total = torch.stack(each).sum(0)
    assert (bonus(entropy_weight=0.1) - total).norm() < 1e-4 * total.norm()
    without_x = bonus(entropy_weight=0.1, entropy_heads=(HeadWeight(Head.X, 0.0),))
    assert (without_x - (total - each[2])).norm() < 1e-4 * total.norm()


def test_over_several_passes_the_clip_takes_the_gradient_away(bench: Bench) -> None:
    # With a clip of nothing, whatever moved the way its advantage wanted has no gradient in the second pass.
    group = on_policy(bench, Skill.QUERY, 4, (1.0, 0.0, 1.0, 0.0))
    tight = replace(SETTINGS, loss=LossKind.PPO, learning_rate=5e-3, clip_low=0.0, clip_high=0.0)
    wide = replace(tight, clip_low=1.0, clip_high=10.0)
    at = bench.finetune, bench.step_folder

    def moved(settings: TrainSettings) -> tuple[float, float]:
        bench.finetune, bench.step_folder = at
        metrics = bench.train([group], settings).metrics
        after = bench.on_policy(group)
        wanted = sum(
            (1 if reward == 1.0 else -1) * (new.logprob - old.logprob)
            for new, old, reward in zip(after.rollouts, group.rollouts, group.rewards, strict=True)
        )
        return metrics["clip_share"], wanted

    assert moved(replace(tight, passes=1))[0] == 0.0
    tight_share, tight_gain = moved(replace(tight, passes=4))
    wide_share, wide_gain = moved(replace(wide, passes=4))
    assert tight_share > 0.4
    assert wide_share == 0.0
    assert 0.0 < tight_gain < wide_gain
