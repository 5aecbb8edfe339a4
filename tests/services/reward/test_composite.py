"""Composites by hand: weights, gates with thresholds, normalising, clipping, and rewards from outside."""

import asyncio
import math

import pytest

from moontune.errors import InvalidField, Unavailable
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import DetectOutput
from moontune.values.reward import ParseStatus, RewardComponent, RewardInfo, RewardResult, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue import entry_named
from services.reward.composite import Composite
from services.reward.grader import grade_all, grade_here
from tests.services.reward.cases import sample

LEFT, QUARTER = Box(0.0, 0.0, 0.5, 1.0), Box(0.0, 0.0, 0.25, 1.0)  # IoU 0.5
FAR = Box(0.9, 0.0, 1.0, 1.0)  # GIoU with LEFT: hull 1, union 0.6, so -0.4


def detect(*boxes, tokens=10):
    return sample(Skill.DETECT, DetectOutput(boxes), GroundTruth(boxes=(LEFT,)), tokens)


def graded(one, *components):
    (result,) = grade_here(Composite.of(RewardSpec(components), entry_named), [one])
    return result


def test_normalising_maps_the_range_to_unit_before_weights():
    giou = RewardComponent("giou", normalise=True)
    assert graded(detect(FAR), giou).reward == pytest.approx((-0.4 + 1) / 2)
    both = graded(detect(FAR), giou, RewardComponent("iou", weight=3.0))
    assert both.reward == pytest.approx(0.3 / 4)
    assert both.components["giou"] == pytest.approx(-0.4), "components are told before weights"


def test_clipping_comes_after_normalising():
    assert graded(detect(FAR), RewardComponent("giou", clip_minimum=-0.1)).reward == pytest.approx(-0.1)
    clipped = RewardComponent("giou", normalise=True, clip_minimum=0.5, clip_maximum=0.6)
    assert graded(detect(FAR), clipped).reward == pytest.approx(0.5)
    assert graded(detect(LEFT), clipped).reward == pytest.approx(0.6)


def test_a_gate_opens_at_its_threshold_or_at_the_largest_value():
    soft = RewardComponent("soft_f_beta")
    half = RewardComponent("iou", gate=True, gate_threshold=0.5)
    assert graded(detect(QUARTER), soft, half).reward == pytest.approx(0.5)
    assert graded(detect(QUARTER), soft, RewardComponent("iou", gate=True)).reward == 0.0
    # The largest value of a penalty is 0: short enough opens it.
    short = RewardComponent("soft_overlong", gate=True)
    assert graded(detect(LEFT, tokens=10), soft, short).reward == 1.0
    assert graded(detect(LEFT, tokens=500), soft, short).reward == 0.0


def test_breaking_a_gate_never_pays_where_the_sum_can_be_negative():
    spec = (RewardComponent("giou"), RewardComponent("count_exact", gate=True))
    assert graded(detect(FAR), *spec).reward == pytest.approx(-0.4)
    assert graded(detect(FAR, LEFT), *spec).reward == -1.0
    assert Composite.of(RewardSpec(spec), entry_named).bounds == (-1.0, 1.0)


def test_bounds_are_those_of_the_weighted_mean():
    spec = RewardSpec((RewardComponent("giou", weight=1.0), RewardComponent("soft_overlong", weight=3.0)))
    assert Composite.of(spec, entry_named).bounds == (-1.0, 0.25)


@pytest.mark.parametrize(
    ("component", "field"),
    [
        (RewardComponent("iou", clip_minimum=1.0, clip_maximum=1.0), "clip_minimum"),
        (RewardComponent("iou", clip_maximum=math.inf), "clip_maximum"),
        (RewardComponent("iou", gate_threshold=0.5), "gate_threshold"),
        (RewardComponent("iou", weight=0.0), "weight"),
        (RewardComponent("regex", parameters={"pattern": "("}), "parameters.pattern"),
        (RewardComponent("regex", parameters={"pattern": r"(a)\1"}), "parameters.pattern"),
        (RewardComponent("json_schema", parameters={"json_schema": '{"type": 3}'}), "parameters.json_schema"),
        (
            RewardComponent("json_schema", parameters={"json_schema": '{"$ref": "other.json"}'}),
            "parameters.json_schema",
        ),
        (
            RewardComponent("soft_overlong", parameters={"max_tokens": 10.0, "slope_tokens": 11.0}),
            "parameters.max_tokens",
        ),
        (RewardComponent("soft_overlong", parameters={"max_tokens": 10.5}), "parameters.max_tokens"),
        (RewardComponent("iou", parameters={"coordinates": "metres"}), "parameters.coordinates"),
        (RewardComponent("mean_average_precision", parameters={"length_penalty": 1.0}), "parameters.length_penalty"),
    ],
)
def test_what_is_wrong_is_named(component, field):
    with pytest.raises(InvalidField) as caught:
        Composite.of(RewardSpec((RewardComponent("giou"), component)), entry_named)
    assert caught.value.violations[0].field == f"reward.components[1].{field}"
    assert "allowed:" in caught.value.message


class Outside:
    """A reward from outside that answers what it is told to."""

    info = RewardInfo("mine", "", ("detect",), (), 0.0, 10.0)

    def __init__(self, *results, error=None):
        self.results, self.error, self.asked = results, error, 0

    async def score(self, samples, parameters):
        self.asked += 1
        if self.error:
            raise self.error
        return self.results


def with_outside(outside, *components, samples=2):
    spec = RewardSpec((RewardComponent("mine", normalise=True), *components))
    lookup = lambda name: outside if name == "mine" else entry_named(name)  # noqa: E731
    return asyncio.run(grade_all(spec, [detect(LEFT)] * samples, lookup))


def test_a_reward_from_outside_is_asked_once_and_mixes_with_built_ins():
    outside = Outside(RewardResult(5.0, {"part": 2.0}, detail="half"), RewardResult(None, detail="it raised"))
    first, second = with_outside(outside, RewardComponent("iou"))
    assert outside.asked == 1
    assert first.reward == pytest.approx((0.5 + 1.0) / 2)
    assert first.components == {"mine": 5.0, "mine/part": 2.0, "iou": 1.0}
    assert (second.reward, second.status, second.detail) == (None, ParseStatus.FAILED, "mine: it raised")
    assert second.components == {"iou": 1.0}


@pytest.mark.parametrize(
    "outside",
    [
        Outside(error=Unavailable("away")),
        Outside(RewardResult(1.0)),
        Outside(RewardResult(math.nan), RewardResult(1.0, {"x": math.inf})),
    ],
    ids=["away", "too few", "not finite"],
)
def test_a_reward_from_outside_that_breaks_is_no_score_never_zero(outside):
    results = with_outside(outside)
    assert [(result.reward, result.status) for result in results] == [(None, ParseStatus.FAILED)] * 2
    assert all(result.detail.startswith("mine: ") for result in results)
