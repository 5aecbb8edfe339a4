"""What a step makes of its groups before it plans: right answers put in, orders drawn, lengths punished."""

from dataclasses import replace
from pathlib import Path

import pytest

from moontune.errors import InvalidField
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.mask import RleMask
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import QueryOutput
from moontune.values.rollout import Decision, FinishReason, Head
from moontune.values.skill import Skill
from moontune.values.training import Aggregation, Group, ObjectOrder, RlGroup, SftGroup, TrainSettings
from services.trainer.batch import BatchPlan, plan_batch
from services.trainer.health import batch_figures
from services.trainer.prepared import PreparedGroup, StepGroups
from services.trainer.spool import Spool, named_group
from tests.fakes.tiny_base import CONFIG, byte_tokenizer
from tests.services.trainer.made import line_of, request, rl_group, sft_group

TOKENIZER = Tokenizer(byte_tokenizer())
NOBODY = PolicyVersion("any", "")
TRUTH = GroundTruth(boxes=(Box(0.5, 0.1, 0.9, 0.4), Box(0.1, 0.1, 0.3, 0.6)))


def groups_of(folder: Path, groups: list[Group], settings: TrainSettings, step: int = 1) -> StepGroups:
    spool = Spool(folder)
    for index, group in enumerate(groups):
        spool.add_group(index, named_group(group, spool, f"groups[{index}]"))
    return StepGroups(spool, settings, step, CONFIG, TOKENIZER)


def prepared(folder: Path, group: Group, settings: TrainSettings, step: int = 1) -> PreparedGroup:
    return groups_of(folder, [group], settings, step).read(0)


def plan(folder: Path, groups: list[Group], settings: TrainSettings) -> BatchPlan:
    return plan_batch(groups_of(folder, groups, settings), len(groups), line_of(0), settings, Aggregation.TOKEN_MEAN)


def flat_group(reward: float | None = 0.0, truth: GroundTruth | QueryOutput | None = TRUTH) -> RlGroup:
    group = rl_group(Skill.DETECT, 1, NOBODY, rewards=(reward, reward, reward), verified=False)
    return replace(group, target=truth)


def test_a_flat_group_gets_its_right_answer(tmp_path: Path) -> None:
    settings = TrainSettings(ground_truth_reward=1.0)
    found = prepared(tmp_path, flat_group(), settings)
    assert found.injected
    assert found.rewards == (0.0, 0.0, 0.0, 1.0)
    answer = found.attempts[3]
    assert [decision.choice for decision in answer.decisions][:5] == [1, 205, 358, 785, 921]
    assert answer.decisions[-1] == Decision(Head.GO, 0, 0.0)
    assert not answer.verified
    # Advantages of (0, 0, 0, 1) around their mean 1/4.
    made = plan(tmp_path, [flat_group()], settings)
    assert made.groups[0].advantages == pytest.approx((-0.25, -0.25, -0.25, 0.75), abs=1e-12)
    figures = batch_figures(made.tally)
    assert (figures["injected_groups"], figures["dead_group_share"], figures["n_rollouts"]) == (1, 1.0, 3)


@pytest.mark.parametrize(
    ("group", "reward"),
    [
        (flat_group(), None),
        (flat_group(1.0), 1.0),
        (flat_group(None), 1.0),
        (flat_group(truth=None), 1.0),
        (replace(flat_group(), rewards=(0.0, 0.5, 0.0)), 1.0),
        (replace(flat_group(), target=GroundTruth(masks=(RleMask(2, 2, (1, 2, 1)),))), 1.0),
    ],
    ids=["off", "nothing to gain", "nothing scored", "no answer known", "signal already", "not one answer"],
)
def test_otherwise_nothing_is_put_in(tmp_path: Path, group: RlGroup, reward: float | None) -> None:
    found = prepared(tmp_path, group, TrainSettings(ground_truth_reward=reward))
    assert not found.injected
    assert len(found.attempts) == 3


def test_a_text_answer_is_put_in_too(tmp_path: Path) -> None:
    group = rl_group(Skill.QUERY, 1, NOBODY, rewards=(0.0, 0.0), verified=False, temperature=0.7)
    found = prepared(tmp_path, replace(group, target=QueryOutput("red")), TrainSettings(ground_truth_reward=2.0))
    assert [decision.choice for decision in found.attempts[2].decisions] == [*TOKENIZER.encode(" red"), 0]
    assert found.attempts[2].temperature == 0.7


def test_objects_are_taught_in_one_order_or_in_one_drawn_per_step(tmp_path: Path) -> None:
    boxes = tuple(Box(x / 10, 0.2, x / 10 + 0.05, 0.4) for x in (5, 1, 7, 3, 2, 8))
    group = SftGroup(request(Skill.DETECT, 1), GroundTruth(boxes=boxes))

    def order(settings: TrainSettings, step: int) -> list[int]:
        taken = prepared(tmp_path, group, settings, step).attempts[0].decisions
        return [decision.choice for decision in taken if decision.head is Head.X]

    canonical = order(TrainSettings(), 1)
    assert canonical == sorted(canonical) == order(TrainSettings(), 2)
    drawn = TrainSettings(object_order=ObjectOrder.RANDOM)
    seen = {tuple(order(drawn, step)) for step in range(20)}
    assert len(seen) > 10
    assert all(sorted(each) == canonical for each in seen)
    assert order(drawn, 3) == order(drawn, 3)


def test_labels_that_are_not_one_answer_are_not_taught(tmp_path: Path) -> None:
    group = SftGroup(request(Skill.POINT, 1), GroundTruth(masks=(RleMask(2, 2, (1, 2, 1)),)))
    with pytest.raises(InvalidField, match=r"groups\[0\]\.sft\.ground_truth"):
        prepared(tmp_path, group, TrainSettings())


def test_long_rollouts_lose_reward_and_signal_can_come_of_it(tmp_path: Path) -> None:
    # max_tokens 128, zone 120: from 8 positions on. Texts of 3 and 12 tokens feed 2 and 11 positions: 3 of 120 over.
    group = rl_group(Skill.QUERY, 1, NOBODY, rewards=(1.0, 1.0), verified=False)
    short, long = (tuple(Decision(Head.TOKEN, 50, -1.0) for _ in range(n)) for n in (3, 12))
    group = replace(
        group,
        rollouts=tuple(
            replace(rollout, decisions=taken) for rollout, taken in zip(group.rollouts, (short, long), strict=True)
        ),
    )
    found = prepared(tmp_path, group, TrainSettings(overlong_positions=120, overlong_penalty=2.0))
    assert found.rewards == (1.0, pytest.approx(1.0 - 2.0 * 3 / 120, abs=1e-12))
    assert (found.overlong, found.flat) == (1, False)
    assert prepared(tmp_path, group, TrainSettings()).flat


def test_rollouts_that_a_limit_cut_are_masked_and_stay_in_the_baseline(tmp_path: Path) -> None:
    group = rl_group(Skill.POINT, 4, NOBODY, rewards=(1.0, 0.5, 0.0), verified=False)
    cut = replace(group.rollouts[2], finish_reason=FinishReason.LENGTH)
    group = replace(group, rollouts=(*group.rollouts[:2], cut))
    (masked,) = plan(tmp_path, [group], TrainSettings(mask_truncated=True)).groups
    (whole,) = plan(tmp_path, [group], TrainSettings()).groups
    assert masked.counts == (*whole.counts[:2], 0)
    assert masked.advantages == whole.advantages == pytest.approx((0.5, 0.0, -0.5))
    assert sum(w * c for w, c in zip(masked.weights, masked.counts, strict=True)) == pytest.approx(1.0, abs=1e-12)


def test_true_objects_are_counted_beside_the_found_ones(tmp_path: Path) -> None:
    settings = TrainSettings()
    three = replace(flat_group(), rewards=(0.0, 1.0, 0.5))  # 3 attempts at 2 boxes
    tally = plan(tmp_path, [three, sft_group(Skill.POINT, 5)], settings).tally  # and one target of 2 points
    assert batch_figures(tally)["n_gt"] == pytest.approx((3 * 2 + 2) / 4)
    none = plan(tmp_path, [replace(three, target=None)], settings).tally
    assert "n_gt" not in batch_figures(none)


def test_a_prompt_that_does_not_fit_names_its_group(tmp_path: Path) -> None:
    asked = replace(request(Skill.QUERY, 1), question="word " * 2000)
    group = replace(sft_group(Skill.QUERY, 1), request=asked)
    with pytest.raises(InvalidField, match=r"groups\[0\]: ") as refused:
        prepared(tmp_path, group, TrainSettings())
    assert [violation.field for violation in refused.value.violations] == ["groups[0].request.question"]
