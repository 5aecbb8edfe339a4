"""The learner on a seeded base of the real architecture: what changes a gradient, what must not, and exact resumes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.checkpoints.folder import verify_folder
from moontune.errors import CheckpointCorrupt, InvalidField, NonFiniteStep, Unavailable, WrongBase
from moontune.values.finetune import LoraSettings, LoraTarget
from moontune.values.rollout import Head
from moontune.values.skill import Skill
from moontune.values.training import LossKind, RlGroup, SamplerCorrection, TrainSettings
from services.trainer.step_folder import read_optimiser
from services.trainer.trainer_state import TrainerState
from tests.fakes.tiny_base import tiny_base
from tests.services.trainer.made import Bench, Calling, close, gradient_of, picture, policy_of, rl_group, sft_group

SETTINGS = TrainSettings(learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def bench(base, tmp_path: Path) -> Bench:
    """A finetune one supervised step away from the base, so that both LoRA matrices have gradients."""
    made = Bench(base, tmp_path)
    assert made.train([sft_group(Skill.DETECT, 90)], SETTINGS).written
    return made


def groups_of(bench: Bench) -> list[RlGroup]:
    policy = policy_of(bench.finetune)
    made = [
        rl_group(Skill.DETECT, 1, policy),
        rl_group(Skill.QUERY, 2, policy, rewards=(1.0, 0.0)),
        rl_group(Skill.POINT, 3, policy, rewards=(0.0, 1.0, None)),
        rl_group(Skill.QUERY, 4, policy),
    ]
    return [bench.on_policy(group) for group in made]


def gradient(bench: Bench, groups, settings: TrainSettings = SETTINGS, micro: int = 4096) -> torch.Tensor:
    return gradient_of(bench, groups, settings, micro)


def test_order_micro_batches_and_padding_change_nothing(bench: Bench) -> None:
    groups = [*groups_of(bench), sft_group(Skill.POINT, 5), sft_group(Skill.QUERY, 6)]
    whole = gradient(bench, groups)
    assert whole.norm() > 1e-3
    assert close(gradient(bench, groups[::-1]), whole)
    assert close(gradient(bench, groups, micro=64), whole)
    assert close(gradient(bench, groups, micro=150), whole)


@pytest.mark.parametrize("kind", list(LossKind))
def test_groups_without_signal_dilute_nothing(bench: Bench, kind: LossKind) -> None:
    policy = policy_of(bench.finetune)
    groups, settings = groups_of(bench), replace(SETTINGS, loss=kind)
    dead = [
        rl_group(Skill.DETECT, 7, policy, rewards=(0.3, 0.3)),
        rl_group(Skill.QUERY, 8, policy, rewards=(None, 1.0)),
    ]
    assert close(gradient(bench, [dead[0], *groups, dead[1]], settings), gradient(bench, groups, settings))


def test_the_image_matters(bench: Bench) -> None:
    # Unverified, so that the picture can reach the gradient through the learner's own forward pass alone.
    group = replace(groups_of(bench)[1], verified=False)
    other = replace(group, request=replace(group.request, image=picture(77)))
    first, second = gradient(bench, [group]), gradient(bench, [other])
    assert (first - second).norm() > 0.05 * first.norm()


def test_the_gradient_is_that_of_the_mean_log_probability(bench: Bench) -> None:
    # One group, rewards 1 and 0: advantages +-0.5; on policy the gradient is -sum(A grad log pi) / decisions. The same
    # through SFT-like finite differences: move along the gradient, and the weighted log-probability moves as predicted.
    group = bench.on_policy(rl_group(Skill.POINT, 11, policy_of(bench.finetune), rewards=(1.0, 0.0)))
    slope = gradient(bench, [group])
    learner = bench.learner
    live = learner._live.take(bench.finetune, bench.step_folder)
    learner._live.keep(live, bench.step_folder)
    step = 1e-3 / slope.norm()

    def weighted() -> float:
        scored = bench.on_policy(group)
        total = sum(len(rollout.decisions) for rollout in group.rollouts)
        return (
            -sum(advantage * rollout.logprob for advantage, rollout in zip((0.5, -0.5), scored.rollouts, strict=True))
            / total
        )

    def move(by: float) -> None:
        at = 0
        with torch.no_grad():
            for parameter in live.parameters.values():
                count = parameter.numel()
                parameter += (by * slope[at : at + count]).reshape(parameter.shape).to(parameter.dtype)
                at += count

    move(float(step))
    up = weighted()
    move(-2 * float(step))
    down = weighted()
    move(float(step))
    assert (up - down) / (2 * float(step)) == pytest.approx(float(slope.norm() ** 2), rel=2e-2)


def test_recorded_log_probabilities_of_unverified_groups_do_not_matter(bench: Bench) -> None:
    group = groups_of(bench)[0]
    forged = replace(
        group,
        verified=False,
        rollouts=tuple(
            replace(rollout, decisions=tuple(replace(decision, logprob=-9.0) for decision in rollout.decisions))
            for rollout in group.rollouts
        ),
    )
    assert close(gradient(bench, [forged]), gradient(bench, [group]))


def test_the_sequence_mask_leaves_out_what_the_sampler_saw_otherwise(bench: Bench) -> None:
    group = groups_of(bench)[0]
    shifted = replace(
        group,
        rollouts=tuple(
            replace(rollout, decisions=tuple(replace(d, logprob=d.logprob - 1.0) for d in rollout.decisions))
            for rollout in group.rollouts
        ),
    )
    outcome = bench.train([shifted], SETTINGS)
    assert outcome.metrics["masked_share"] == 1.0
    assert outcome.metrics["max_ratio"] == pytest.approx(2.718, abs=1e-2)
    assert outcome.metrics["mismatch_kl"] == pytest.approx(2.71828 - 2.0, abs=1e-3)
    assert outcome.metrics["grad_norm"] == 0.0
    kept = bench.train([bench.on_policy(group)], replace(SETTINGS, correction=SamplerCorrection.OFF))
    assert kept.metrics["masked_share"] == 0.0
    assert kept.metrics["mismatch_kl"] < 1e-8


def test_a_step_raises_what_was_rewarded(bench: Bench) -> None:
    group = groups_of(bench)[3]
    before = [rollout.logprob for rollout in group.rollouts]
    for _ in range(5):
        bench.train([bench.on_policy(group)], SETTINGS)
    after = [rollout.logprob for rollout in bench.on_policy(group).rollouts]
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1]


@pytest.mark.parametrize("skill", [Skill.QUERY, Skill.POINT, Skill.DETECT])
def test_supervision_lowers_its_own_loss(bench: Bench, skill: Skill) -> None:
    losses = [bench.train([sft_group(skill, 21)], SETTINGS).metrics["sft_loss"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.2


def test_health_figures(bench: Bench) -> None:
    policy = policy_of(bench.finetune)
    groups = [*groups_of(bench), rl_group(Skill.DETECT, 8, policy, rewards=(1.0, 1.0)), sft_group(Skill.DETECT, 9)]
    metrics = bench.train(groups, SETTINGS).metrics
    assert metrics["n_groups"] == 5
    assert metrics["n_sft_groups"] == 1
    assert metrics["n_rollouts"] == 15
    assert metrics["dead_group_share"] == pytest.approx(0.2)
    assert metrics["all_max_share"] == pytest.approx(0.2)
    assert metrics["no_score_share"] == pytest.approx(1 / 15)
    # 4 rewards of 0.4375 on average twice, 1 and 0, 0 and 1, 1 and 1
    assert metrics["reward_mean"] == pytest.approx((1.75 + 1.0 + 1.0 + 1.75 + 2.0) / 14)
    assert metrics["staleness_max"] == 0.0
    assert metrics["clip_share"] == 0.0
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["mismatch_kl"] < 1e-9
    assert metrics["max_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["learning_rate"] == pytest.approx(1e-2)
    assert metrics["kl"] > 0.0
    for name in ("entropy_token", "entropy_go", "entropy_x", "kl_x", "seconds_forward", "seconds_step", "grad_norm"):
        assert metrics[name] > 0.0, name


def test_stale_groups_are_dropped_and_counted(bench: Bench) -> None:
    fresh = groups_of(bench)[0]
    old = replace(fresh, rollouts=tuple(replace(r, policy=replace(r.policy, step=0)) for r in fresh.rollouts))
    outcome = bench.train([fresh, old], replace(SETTINGS, max_staleness_steps=0))
    assert outcome.metrics["stale_groups"] == 1
    assert outcome.metrics["staleness_max"] == 1
    refused = bench.train([bench.on_policy(fresh), old], replace(SETTINGS, max_staleness_steps=8))
    assert refused.metrics["stale_groups"] == 0


def test_nothing_with_signal_is_not_a_step(bench: Bench) -> None:
    before, digest = bench.step_folder, bench.finetune.adapter_digest
    outcome = bench.train([rl_group(Skill.QUERY, 1, policy_of(bench.finetune), rewards=(0.5, 0.5))], SETTINGS)
    assert outcome.written is None
    assert "signal" in outcome.reason
    assert outcome.metrics["dead_group_share"] == 1.0
    assert (bench.step_folder, bench.finetune.adapter_digest) == (before, digest)


def test_a_step_that_is_not_finite_is_refused_and_leaves_no_trace(bench: Bench, tmp_path: Path) -> None:
    groups = groups_of(bench)
    twin = Bench(bench.base, tmp_path / "twin")
    twin.finetune, twin.step_folder = bench.finetune, bench.step_folder
    huge = bench.on_policy(rl_group(Skill.QUERY, 5, policy_of(bench.finetune), rewards=(1e300, -1e300)))
    with pytest.raises(NonFiniteStep, match=r"groups\[1\]"):
        bench.train(
            [groups[0], huge],
            SETTINGS,
        )
    assert bench.train(groups, SETTINGS).written == twin.train(groups, SETTINGS).written


def test_a_step_that_cannot_be_written_leaves_no_trace(bench: Bench, tmp_path: Path) -> None:
    groups = groups_of(bench)
    twin = Bench(bench.base, tmp_path / "twin")
    twin.finetune, twin.step_folder = bench.finetune, bench.step_folder
    order = bench.order(groups, settings=SETTINGS)
    Path(order.new_folder).mkdir()  # taken: the rename at the end, after the optimiser has moved, fails
    with pytest.raises(Unavailable, match="cannot be written"):
        bench.learner.train(Calling(), order)
    assert bench.train(groups, SETTINGS).written == twin.train(groups, SETTINGS).written


def test_several_passes_make_the_clip_act(bench: Bench) -> None:
    groups = groups_of(bench)
    settings = replace(SETTINGS, loss=LossKind.PPO, learning_rate=5e-2, clip_low=0.05, clip_high=0.05)
    once = bench.train(groups, replace(settings, learning_rate=0.0))
    assert once.metrics["clip_share"] == 0.0
    many = bench.train([bench.on_policy(group) for group in groups], replace(settings, passes=4))
    assert many.metrics["clip_share"] > 0.05


def test_kl_and_entropy_terms_act(bench: Bench) -> None:
    group = groups_of(bench)[0]
    plain = gradient(bench, [group])
    with_kl = gradient(bench, [group], replace(SETTINGS, kl_weight=1.0))
    with_entropy = gradient(bench, [group], replace(SETTINGS, entropy_weight=0.1))
    assert (with_kl - plain).norm() > 1e-4
    assert (with_entropy - plain).norm() > 1e-4


def test_kl_to_the_base_is_zero_at_step_0(base, tmp_path: Path) -> None:
    fresh = Bench(base, tmp_path)
    group = fresh.on_policy(rl_group(Skill.DETECT, 1, policy_of(fresh.finetune)))
    assert fresh.train([group], replace(SETTINGS, kl_weight=0.5)).metrics["kl"] == pytest.approx(0.0, abs=1e-7)


def test_resume_from_files_is_bit_exact(bench: Bench, tmp_path: Path) -> None:
    batches = [[bench.on_policy(rl_group(Skill.POINT, seed, policy_of(bench.finetune)))] for seed in range(3)]
    at, twin = (bench.finetune, bench.step_folder), Bench(bench.base, tmp_path / "twin")
    straight = [bench.train(batch, SETTINGS).written for batch in batches]
    assert None not in straight
    twin.finetune, twin.step_folder = at
    resumed = []
    for batch in batches:
        twin.restart()
        resumed.append(twin.train(batch, SETTINGS).written)
    assert resumed == straight
    ours, theirs = (read_optimiser(each.step_folder) for each in (bench, twin))
    assert all(torch.equal(ours.moments[name], theirs.moments[name]) for name in ours.moments)
    assert torch.equal(ours.rng, theirs.rng)


def test_a_step_at_rate_0_still_moves_the_moments(bench: Bench) -> None:
    groups, digest, before = groups_of(bench), bench.finetune.adapter_digest, read_optimiser(bench.step_folder)
    bench.train(groups, replace(SETTINGS, learning_rate=0.0))
    assert bench.finetune.adapter_digest == digest
    after = read_optimiser(bench.step_folder)
    assert any(not torch.equal(before.moments[name], after.moments[name]) for name in before.moments)


def test_client_state_is_kept_with_the_step(bench: Bench) -> None:
    groups = groups_of(bench)
    bench.train(groups, SETTINGS, client_state=b"cursor 7")
    assert TrainerState.read(bench.step_folder) == TrainerState(2, b"cursor 7")
    bench.restart()
    bench.train([bench.on_policy(group) for group in groups], SETTINGS)
    assert TrainerState.read(bench.step_folder) == TrainerState(3, b"cursor 7")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"])
def test_a_changed_byte_in_a_step_is_found(bench: Bench, name: str) -> None:
    groups = groups_of(bench)
    content = bytearray((bench.step_folder / name).read_bytes())
    content[-1] ^= 1
    (bench.step_folder / name).write_bytes(content)
    bench.restart()
    with pytest.raises(CheckpointCorrupt, match=name):
        bench.train(groups, SETTINGS)


def test_step_0_equals_the_base_and_is_verified(base, tmp_path: Path) -> None:
    fresh = Bench(base, tmp_path)
    group = rl_group(Skill.DETECT, 1, policy_of(fresh.finetune))
    adapted = fresh.on_policy(group)
    manifest = verify_folder(fresh.step_folder)
    assert manifest.adapter_digest == fresh.finetune.adapter_digest
    assert manifest.base_digest == base.digest
    assert manifest.lora == LoraSettings(4)
    spool = fresh.spool([group])
    from services.trainer.orders import ScoreOrder

    bare = fresh.learner.score(Calling(), ScoreOrder(None, "", str(spool.folder), 1))
    for rollout, scores in zip(adapted.rollouts, bare, strict=True):
        assert [d.logprob for d in rollout.decisions] == pytest.approx([s.logprob for s in scores], abs=1e-6)


def test_different_shapes_side_by_side(base, tmp_path: Path) -> None:
    small = Bench(base, tmp_path / "a", LoraSettings(2, targets=(LoraTarget.TEXT_MLP,)))
    large = Bench(base, tmp_path / "b", LoraSettings(8, alpha=4.0, targets=(LoraTarget.REGION, LoraTarget.VISION)))
    large.finetune = replace(large.finetune, id="01HZZZZZZZZZZZZZZZZZZZZZZY")
    large.learner = small.learner
    from services.trainer.orders import CreateOrder

    large.step_folder = tmp_path / "b" / "own-0"
    written = small.learner.create(Calling(), CreateOrder(large.finetune, str(large.step_folder)))
    large.finetune = replace(large.finetune, adapter_digest=written.adapter_digest)
    for _ in range(2):
        for each in (small, large):
            group = each.on_policy(rl_group(Skill.DETECT, 1, policy_of(each.finetune)))
            assert each.train([group], SETTINGS).metrics["grad_norm"] > 0
    alone = Bench(base, tmp_path / "c", LoraSettings(2, targets=(LoraTarget.TEXT_MLP,)))
    for _ in range(2):
        alone.train([alone.on_policy(rl_group(Skill.DETECT, 1, policy_of(alone.finetune)))], SETTINGS)
    assert alone.finetune.adapter_digest == small.finetune.adapter_digest


def test_impossible_decisions_are_named(bench: Bench) -> None:
    good = groups_of(bench)[0]
    bad = good.rollouts[1]
    bad = replace(bad, decisions=(replace(bad.decisions[0], head=Head.X), *bad.decisions[1:]))
    group = replace(good, rollouts=(good.rollouts[0], bad, *good.rollouts[2:]))
    with pytest.raises(InvalidField, match=r"groups\[1\]\.rl\.rollouts\[1\]\.rollout\.decisions\[0\]\.head"):
        bench.train([good, group], SETTINGS)


def test_a_finetune_of_another_base_is_refused(bench: Bench) -> None:
    groups = groups_of(bench)
    bench.finetune = replace(bench.finetune, base_digest="sha256:" + "0" * 64)
    with pytest.raises(WrongBase):
        bench.train(groups, SETTINGS)


def test_a_step_that_leaves_a_target_out_can_be_resumed(base, tmp_path: Path) -> None:
    # Questions alone never reach the region head, and prompts without an image never the vision tower: those
    # parameters have no moments until a later step gives them a gradient.
    lora = LoraSettings(4, targets=(LoraTarget.TEXT_MLP, LoraTarget.REGION))
    straight, resumed = Bench(base, tmp_path / "a", lora), Bench(base, tmp_path / "b", lora)
    for made in (straight, resumed):
        assert made.train([sft_group(Skill.QUERY, 1)], SETTINGS).written
    resumed.restart()
    for made in (straight, resumed):
        assert made.train([sft_group(Skill.DETECT, 2)], SETTINGS).written
    assert resumed.finetune.adapter_digest == straight.finetune.adapter_digest
