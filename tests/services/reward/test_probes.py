"""The dry run tells of rewards that would be gamed, each by the probe that catches it, and is quiet about good ones."""

import pytest

from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import DetectOutput, PointOutput, QueryOutput
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.reward_report import SampleGroup
from moontune.values.skill import Skill
from services.reward.catalogue import CATALOGUE
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.dry_run import dry_run
from tests.services.reward.cases import sample

TRUTHS = [(Box(x / 10, 0.1, x / 10 + 0.15, 0.3), Box(x / 10, 0.6, x / 10 + 0.1, 0.9)) for x in range(6)]


def groups():
    """Attempts that find one, both, or a little of the objects."""
    made = []
    for truth in TRUTHS:
        first, second = truth
        near = Box(first.x_min + 0.03, first.y_min, first.x_max + 0.03, first.y_max)
        outputs = (DetectOutput((first, second)), DetectOutput((near,)), DetectOutput((near, second)))
        one = sample(Skill.DETECT, outputs[0], GroundTruth(boxes=truth))
        made.append(SampleGroup(one.request, outputs, one.ground_truth, (20, 10, 20)))
    return made


def texts(*references):
    one = sample(Skill.QUERY, QueryOutput(""), GroundTruth(answers=("x",)))
    return [
        SampleGroup(one.request, (QueryOutput(right), QueryOutput("perhaps")), GroundTruth(answers=(right,)))
        for right in references
    ]


async def report(name, made, **parameters):
    return await dry_run(RewardSpec((RewardComponent(name, parameters=parameters),)), made)


@pytest.mark.parametrize("name", ["matched_iou", "soft_f_beta", "hard_f_beta", "mean_average_precision"])
async def test_good_rewards_raise_no_warning(name):
    found = await report(name, groups())
    assert found.warnings == ()
    means = {probe.name: probe.mean for probe in found.probes}
    assert means["truth"] == pytest.approx(1.0)
    assert means["silence"] == 0.0
    assert set(means) == {"truth", "silence", "everything", "whole", "other", "repeated", "reordered"}


def _entry(grade):
    return Entry("gamed", "", "", (Skill.DETECT,), (Label.BOXES,), Parameters, grade)


def _best_partner(one, parameters):
    """Recall alone: boxes everywhere pay."""
    said = one.output.objects
    return sum(any(box.contains(true.centre) for box in said) for true in one.ground_truth.boxes) / 2


@pytest.mark.parametrize(
    ("grade", "part"),
    [
        (lambda one, p: 1.0 - len(one.output.objects) / 30, "An empty answer is paid 1"),
        (_best_partner, "Saying everything is paid 1"),
        (_best_partner, "One box around the whole image is paid"),
        (lambda one, p: min(1.0, len(one.output.objects) / 10), "duplicates pay"),
        (lambda one, p: min(1.0, len(one.output.objects) / 10), "The right answer of another sample is paid 0.2"),
        (
            lambda one, p: one.output.objects[0].y_min if one.output.objects else 0.0,
            "order of objects should not count",
        ),
        (lambda one, p: 1.0 - float(set(one.output.objects) == set(one.ground_truth.boxes)), "is it upside down?"),
        (lambda one, p: 0.98 + 0.001 * len(one.output.objects), "saturated"),
        (lambda one, p: 0.5, "flat reward teaches nothing"),
    ],
)
async def test_each_way_to_game_a_reward_is_told(monkeypatch, grade, part):
    monkeypatch.setitem(CATALOGUE, "gamed", _entry(grade))
    found = await report("gamed", groups())
    assert any(part in warning for warning in found.warnings), found.warnings


async def test_penalties_alone_pay_silence():
    found = await report("soft_overlong", groups(), max_tokens=15.0, slope_tokens=10.0)
    assert any("An empty answer is paid 0" in warning for warning in found.warnings)


async def test_texts():
    found = await report("contains", texts("red", "green", "blue"), max_extra_words=50.0)
    assert any("Saying everything is paid 1" in warning for warning in found.warnings)
    assert not any("Saying everything" in w for w in (await report("exact_match", texts("red", "green"))).warnings)


async def test_points_and_a_composite():
    made = []
    for truth in TRUTHS:
        outputs = (PointOutput(tuple(box.centre for box in truth)), PointOutput((Point(0.99, 0.01),)))
        one = sample(Skill.POINT, outputs[0], GroundTruth(boxes=truth))
        made.append(SampleGroup(one.request, outputs, one.ground_truth))
    spec = RewardSpec((RewardComponent("point_in_box"), RewardComponent("count_shaped", weight=0.2)))
    found = await dry_run(spec, made)
    assert found.warnings == ()
    assert {probe.name: probe.mean for probe in found.probes}["truth"] == 1.0
