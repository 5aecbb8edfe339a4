"""Targets as decisions, plans, spools, retention: the parts without tensors."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moontune.errors import ImageUnknown, InvalidField
from moontune.model.tokenizer import Tokenizer
from moontune.values.ground_truth import GroundTruth
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import Grounding, QueryOutput, Reasoning
from moontune.values.rollout import Head
from moontune.values.skill import Skill
from moontune.values.training import Aggregation, SftGroup, TrainSettings
from services.trainer.batch import micro_batches, plan_batch
from services.trainer.retention import KeepRule, expired_steps
from services.trainer.rows import StepRow
from services.trainer.sft import target_decisions
from services.trainer.spool import Spool, named_group, new_spool
from tests.fakes.tiny_base import CONFIG, byte_tokenizer
from tests.services.trainer.made import picture, request, rl_group, sft_group

TOKENIZER = Tokenizer(byte_tokenizer())
NOBODY = PolicyVersion("any", "")


def choices(group: SftGroup) -> list[tuple[Head, int]]:
    found, _ = target_decisions(group, CONFIG, TOKENIZER, "groups[0].sft")
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
    found, thinking = target_decisions(group, CONFIG, TOKENIZER, "groups[0].sft")
    thoughts = TOKENIZER.encode(" it glows")
    assert [decision.choice for decision in found] == [*thoughts, 3, *TOKENIZER.encode(" red"), 0]
    assert thinking == len(thoughts)
    grounded = Reasoning("it glows", (Grounding(0, 2, ()),))
    with pytest.raises(InvalidField, match=r"groups\[0\]\.sft\.target\.reasoning\.grounding"):
        target_decisions(SftGroup(asked, QueryOutput("red", grounded)), CONFIG, TOKENIZER, "groups[0].sft")


def test_micro_batches_hold_to_their_budget(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    groups = [rl_group(Skill.DETECT, seed, NOBODY, verified=False) for seed in range(9)]
    for index, group in enumerate(groups):
        spool.add_group(index, named_group(group, spool, "g"))
    plan = plan_batch(spool, 9, 0, TrainSettings(), Aggregation.TOKEN_MEAN, CONFIG, TOKENIZER)
    for budget in (1, 150, 400, 10_000):
        batches = list(micro_batches(plan.groups, budget))
        assert [group for batch in batches for group in batch] == list(plan.groups)
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(group.positions for group in batch) <= budget
    assert len(list(micro_batches(plan.groups, 10_000))) == 1
    weights = sum(
        weight * count for group in plan.groups for weight, count in zip(group.weights, group.counts, strict=True)
    )
    assert weights == pytest.approx(1.0, abs=1e-12)


def test_a_spool_keeps_each_image_once_and_goes(tmp_path: Path) -> None:
    with new_spool(tmp_path / "spool") as spool:
        first = named_group(rl_group(Skill.DETECT, 1, NOBODY), spool, "groups[0]")
        image = first.request.image
        assert image is not None
        assert image.data is None
        again = replace(first, request=replace(first.request, object="other"))
        assert named_group(again, spool, "groups[1]") == again
        assert len(list(spool.folder.glob("image-*"))) == 1
        with pytest.raises(ImageUnknown, match=r"groups\[2\]\.request\.image"):
            named_group(rl_group(Skill.DETECT, 2, NOBODY, image=picture(2).named()), spool, "groups[2]")
        spool.add_group(0, first)
        assert spool.group(0) == first
    assert not list((tmp_path / "spool").iterdir())


def rows(count: int, age_hours: float = 0.0, size_bytes: int = 10, expired: int = 0) -> list[StepRow]:
    at = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=age_hours)
    return [StepRow("f", step, "d", "" if step < expired else f"f/{step}", size_bytes, at) for step in range(count)]


@pytest.mark.parametrize(
    ("held", "rule", "gone"),
    [
        (rows(5), KeepRule(8), []),
        (rows(20), KeepRule(8), []),
        (rows(20, age_hours=25), KeepRule(8), list(range(12))),
        (rows(20), KeepRule(8, size_bytes=50), list(range(7))),
        (rows(20, age_hours=1000), KeepRule(20), []),
        (rows(20, age_hours=25, expired=10), KeepRule(8), [10, 11]),
        (rows(1, age_hours=1000), KeepRule(1, size_bytes=0), []),
    ],
)
def test_what_expires(held: list[StepRow], rule: KeepRule, gone: list[int]) -> None:
    found = expired_steps(held, rule, datetime(2026, 1, 1, tzinfo=UTC))
    assert sorted(row.step for row in found) == gone
