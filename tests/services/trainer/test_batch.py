"""Targets as decisions, plans, spools, retention: the parts without tensors."""

from dataclasses import replace
from pathlib import Path

import pytest

from moontune.errors import InvalidField
from moontune.model.tokenizer import Tokenizer
from moontune.values.ground_truth import GroundTruth
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import Grounding, QueryOutput, Reasoning
from moontune.values.rollout import Head
from moontune.values.skill import Skill
from moontune.values.training import Aggregation, SftGroup, TrainSettings
from services.trainer.batch import BatchPlan, micro_batches, plan_batch
from services.trainer.prepared import StepGroups
from services.trainer.sft import target_decisions
from services.trainer.spool import Spool, named_group
from tests.fakes.tiny_base import CONFIG, byte_tokenizer
from tests.services.trainer.made import line_of, request, rl_group, sft_group

TOKENIZER = Tokenizer(byte_tokenizer())
NOBODY = PolicyVersion("any", "")


def choices(group: SftGroup) -> list[tuple[Head, int]]:
    found, _ = target_decisions(group.request, group.target, CONFIG, TOKENIZER, "groups[0].sft")
    return [(decision.head, decision.choice) for decision in found]


def test_boxes_become_decisions_left_to_right() -> None:
    # Centres 0.7, 0.25 and 0.2, 0.35: the second comes first. 0.2 * 1023 = 204.6 -> 205, 0.35 * 1023 = 358.05 -> 358.
    # Width 0.2: log2 = -2.3219; (10 - 2.3219) / 10 * 1023 = 785.47 -> 785. Height 0.5: 9 / 10 * 1023 = 920.7 -> 921.
    first = [(Head.GO, 1), (Head.X, 205), (Head.Y, 358), (Head.WIDTH, 785), (Head.HEIGHT, 921)]
    found = choices(sft_group(Skill.DETECT, 1))
    assert found[:5] == first
    assert found[5:7] == [(Head.GO, 1), (Head.X, 716)]
    assert found[-1] == (Head.GO, 0)
    assert len(found) == 11


def test_points_become_decisions_and_boxes_do_for_point() -> None:
    found = choices(sft_group(Skill.POINT, 1))
    assert found == [
        (Head.GO, 1),
        (Head.X, 102),
        (Head.Y, 921),
        (Head.GO, 1),
        (Head.X, 716),
        (Head.Y, 205),
        (Head.GO, 0),
    ]
    boxes = sft_group(Skill.DETECT, 1).target
    assert choices(SftGroup(request(Skill.POINT, 1), boxes))[1] == (Head.X, 205)
    assert choices(SftGroup(request(Skill.DETECT, 1), GroundTruth(boxes=()))) == [(Head.GO, 0)]


def test_answers_end_with_the_end_of_text() -> None:
    assert choices(sft_group(Skill.QUERY, 1)) == [(Head.TOKEN, token) for token in (*TOKENIZER.encode(" red"), 0)]


def test_reasoning_is_imitated_and_its_grounding_is_not() -> None:
    asked = replace(request(Skill.QUERY, 1), reasoning=True)
    group = SftGroup(asked, QueryOutput("red", Reasoning("it glows")))
    found, thinking = target_decisions(asked, group.target, CONFIG, TOKENIZER, "groups[0].sft")
    thoughts = TOKENIZER.encode(" it glows")
    assert [decision.choice for decision in found] == [*thoughts, 3, *TOKENIZER.encode(" red"), 0]
    assert thinking == len(thoughts)
    grounded = Reasoning("it glows", (Grounding(0, 2, ()),))
    with pytest.raises(InvalidField, match=r"groups\[0\]\.sft\.target\.reasoning\.grounding"):
        target_decisions(asked, QueryOutput("red", grounded), CONFIG, TOKENIZER, "groups[0].sft")


def planned(spool: Spool, count: int, settings: TrainSettings | None = None) -> BatchPlan:
    settings = settings or TrainSettings()
    groups = StepGroups(spool, settings, 1, CONFIG, TOKENIZER)
    return plan_batch(groups, count, line_of(0), settings, Aggregation.TOKEN_MEAN)


def test_micro_batches_hold_to_their_budget(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    groups = [rl_group(Skill.DETECT, seed, NOBODY, verified=False) for seed in range(9)]
    for index, group in enumerate(groups):
        spool.add_group(index, named_group(group, spool, "g"))
    plan = planned(spool, 9)
    for budget in (1, 150, 400, 10_000):
        batches = list(micro_batches(plan.groups, budget))
        taken = [(piece.group, attempt) for batch in batches for piece in batch for attempt in piece.attempts]
        assert taken == [(group, attempt) for group in plan.groups for attempt in group.kept]
        for batch in batches:
            lone = len(batch) == 1 and len(batch[0].attempts) == 1
            assert lone or len(batch) * max(piece.positions for piece in batch) <= budget
    assert len(list(micro_batches(plan.groups, 10_000))) == 1
    weights = sum(
        weight * count for group in plan.groups for weight, count in zip(group.weights, group.counts, strict=True)
    )
    assert weights == pytest.approx(1.0, abs=1e-12)
