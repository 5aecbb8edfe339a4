"""Known values by hand for every built-in."""

import asyncio

import pytest

from moontune.errors import InvalidField, RewardNotFound
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus, RewardComponent, RewardSample, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue import CATALOGUE, default_spec, entry_named
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.composite import Composite
from services.reward.grader import grade_all

LEFT = Box(0.0, 0.0, 0.5, 1.0)
RIGHT = Box(0.5, 0.0, 1.0, 1.0)
QUARTER = Box(0.0, 0.0, 0.25, 1.0)  # IoU 0.5 with LEFT
IMAGE = Image("0" * 64)


def detect(predicted, actual) -> RewardSample:
    request = SkillRequest(Skill.DETECT, IMAGE, object="thing")
    return RewardSample(request, DetectOutput(tuple(predicted)), GroundTruth(boxes=tuple(actual)))


def point(predicted, *, boxes=None, points=None) -> RewardSample:
    request = SkillRequest(Skill.POINT, IMAGE, object="thing")
    return RewardSample(request, PointOutput(tuple(predicted)), GroundTruth(boxes=boxes, points=points))


def query(answer, *references) -> RewardSample:
    return RewardSample(SkillRequest(Skill.QUERY, question="?"), QueryOutput(answer), GroundTruth(answers=references))


def value(name, sample, **parameters) -> float:
    (result,) = graded([RewardComponent(name, parameters=parameters)], sample)
    assert result.reward is not None, result.detail
    return result.reward


def graded(components, *samples):
    spec = None if components is None else RewardSpec(tuple(components))
    return asyncio.run(grade_all(spec, samples))


@pytest.mark.parametrize(
    ("predicted", "actual", "expected"),
    [
        ([LEFT, RIGHT], [RIGHT, LEFT], 1.0),
        ([QUARTER], [LEFT], 0.5),
        ([QUARTER], [LEFT, RIGHT], 0.25),
        ([QUARTER, RIGHT, RIGHT], [LEFT, RIGHT], 0.5),
        ([], [LEFT], 0.0),
        ([], [], 1.0),
        ([LEFT], [], 0.5),
        ([LEFT] * 2, [], 0.3),
        ([LEFT] * 3, [], 0.1),
        ([LEFT] * 4, [], 0.0),
        ([LEFT, LEFT], [LEFT, LEFT], 1.0),  # labels that repeat an object may be answered as often
    ],
)
def test_matched_iou(predicted, actual, expected):
    assert value("matched_iou", detect(predicted, actual)) == pytest.approx(expected, abs=1e-12)


def test_one_box_said_twice_is_paid_once_though_it_overlaps_two_objects():
    straddling = Box(0.25, 0.0, 0.75, 1.0)  # IoU 1/3 with each half
    once = value("matched_iou", detect([straddling], [LEFT, RIGHT]))
    twice = value("matched_iou", detect([straddling] * 2, [LEFT, RIGHT]))
    assert once == pytest.approx(1 / 6)
    assert twice == pytest.approx(1 / 6)


def test_f_beta():
    sample = detect([QUARTER, RIGHT, Box(0, 0, 0.01, 0.01)], [LEFT, RIGHT])
    assert value("soft_f_beta", sample) == pytest.approx(2 * 1.5 / (2 + 3))
    assert value("soft_f_beta", sample, beta=2.0) == pytest.approx(5 * 1.5 / (4 * 2 + 3))
    assert value("hard_f_beta", sample) == pytest.approx(2 * 2 / 5)
    assert value("hard_f_beta", sample, iou_threshold=0.75) == pytest.approx(2 * 1 / 5)
    assert value("hard_f_beta", detect([], [])) == 1.0
    assert value("soft_f_beta", detect([LEFT], [])) == 0.0
    assert value("soft_f_beta", detect([], [LEFT])) == 0.0


def test_points():
    assert value("point_in_box", point([Point(0.1, 0.5), Point(0.9, 0.5)], boxes=(LEFT, RIGHT))) == 1.0
    assert value("point_in_box", point([Point(0.1, 0.5), Point(0.2, 0.5)], boxes=(LEFT, RIGHT))) == 0.5
    assert value("point_in_box", point([Point(0.1, 0.5)] * 4, boxes=(LEFT,))) == 0.25
    assert value("point_in_box", point([Point(0.1, 0.5)], boxes=())) == 0.5
    near = point([Point(0.5, 0.55)], points=(Point(0.5, 0.5),))
    assert value("point_distance", near) == pytest.approx(1 - 0.05 / 0.25)
    assert value("point_distance", near, radius=0.05) == pytest.approx(0.0, abs=1e-9)
    assert value("point_distance", point([Point(0, 0), Point(1, 1)], points=(Point(0, 0),))) == 0.5
    assert value("point_distance", point([], points=())) == 1.0


def test_text():
    assert value("exact_match", query("The Cat.", "dog", "cat")) == 1.0
    assert value("exact_match", query("cats", "cat")) == 0.0
    assert value("contains", query("It is a red car", "red car")) == 1.0
    assert value("contains", query("It is scarred", "car")) == 0.0
    assert value("contains", query("yes no maybe perhaps never always", "yes")) == 0.0
    assert value("contains", query("yes no", "yes"), max_extra_words=0) == 0.0
    assert value("token_f1", query("a red red car", "red car")) == pytest.approx(2 * 2 / 5)
    assert value("token_f1", query("blue", "red car", "blue")) == 1.0
    assert value("token_f1", query("", "red")) == 0.0


def test_a_composite_is_the_weighted_mean_and_a_gate_holds_it_at_zero():
    sample = detect([QUARTER, RIGHT], [LEFT, RIGHT])
    soft = RewardComponent("soft_f_beta", weight=3.0)
    strict = RewardComponent("hard_f_beta", weight=1.0, parameters={"iou_threshold": 0.9})
    loose = RewardComponent("hard_f_beta", gate=True, parameters={"iou_threshold": 0.4})
    (result,) = graded([soft, strict, loose], sample)
    assert result.components == pytest.approx({"soft_f_beta": 0.75, "hard_f_beta": 0.5, "hard_f_beta#2": 1.0})
    assert result.reward == pytest.approx((3 * 0.75 + 0.5) / 4)
    (shut,) = graded([soft, RewardComponent("hard_f_beta", gate=True, parameters={"iou_threshold": 0.9})], sample)
    assert shut.reward == 0.0
    (only,) = graded([loose], sample)
    assert only.reward == 1.0


def test_defaults_by_skill_and_labels():
    def name(skill, truth):
        return default_spec(skill, truth).components[0].name

    assert name(Skill.DETECT, GroundTruth(boxes=())) == "matched_iou"
    assert name(Skill.POINT, GroundTruth(boxes=())) == "point_in_box"
    assert name(Skill.POINT, GroundTruth(points=())) == "point_distance"
    assert name(Skill.QUERY, GroundTruth(answers=("a",))) == "exact_match"
    mixed = [detect([LEFT], [LEFT]), query("yes", "Yes"), point([], points=(Point(0, 0),))]
    assert [result.reward for result in graded(None, *mixed)] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ([RewardComponent("soft_f_beta", parameters={"beta": 0.0})], "beta is 0.0; allowed: a number from 0.1 to 10"),
        ([RewardComponent("soft_f_beta", parameters={"beta": "x"})], "allowed: a number"),
        ([RewardComponent("soft_f_beta", parameters={"gamma": 1.0})], "parameters of soft_f_beta: coordinates, beta"),
        ([RewardComponent("soft_f_beta", weight=float("nan"))], "weight is nan"),
        ([RewardComponent("soft_f_beta", weight=-1.0)], "more than 0"),
        ([], "1 to 16 components"),
    ],
)
def test_a_wrong_spec_names_field_value_and_range(components, message):
    with pytest.raises(InvalidField, match=message.replace("(", r"\(")):
        Composite.of(RewardSpec(tuple(components)), entry_named)


def test_unknown_rewards_and_samples_of_another_kind_are_the_callers_mistake():
    with pytest.raises(RewardNotFound, match="'map' here; built in are: iou"):
        entry_named("map")
    with pytest.raises(RewardNotFound, match=r"reward.components\[0\].name is 'map'; no reward is named") as caught:
        graded([RewardComponent("map")], detect([], []))
    assert [violation.field for violation in caught.value.violations] == ["reward.components[0].name"]
    with pytest.raises(InvalidField, match=r"samples\[1\].request.skill"):
        graded([RewardComponent("matched_iou")], detect([], []), point([], boxes=()))
    with pytest.raises(InvalidField, match=r"ground_truth is .boxes.; allowed: points for"):
        graded([RewardComponent("point_distance")], point([], boxes=()))
    wrong: Output = CaptionOutput("a cat")
    sample = RewardSample(SkillRequest(Skill.QUERY, question="?"), wrong, GroundTruth(answers=("a",)))
    with pytest.raises(InvalidField, match="a QueryOutput"):
        graded(None, sample)


def test_a_grade_that_breaks_is_no_score_and_an_empty_answer_says_so(monkeypatch):
    def broken(sample, parameters):
        raise ZeroDivisionError("secret detail")

    for name, grade in {"broken": broken, "nan": lambda sample, parameters: float("nan")}.items():
        entry = Entry(name, "", "", (Skill.QUERY,), (Label.ANSWERS,), Parameters, grade)
        monkeypatch.setitem(CATALOGUE, name, entry)
        (result,) = graded([RewardComponent("exact_match"), RewardComponent(name)], query("yes", "yes"))
        assert (result.reward, result.status) == (None, ParseStatus.FAILED)
        assert result.components == {"exact_match": 1.0}
        assert name.split("#", maxsplit=1)[0] in result.detail
        assert "secret" not in result.detail
    (blank,) = graded(None, query("  ", "yes"))
    assert (blank.reward, blank.status) == (0.0, ParseStatus.UNPARSED)


def test_every_entry_describes_itself():
    for entry in CATALOGUE.values():
        info = entry.info()
        assert info.description
        assert info.skills
        assert info.minimum < info.maximum
        assert all(parameter.description for parameter in info.parameters)


@pytest.mark.parametrize(("depth", "status"), [(100, ParseStatus.OK), (101, ParseStatus.UNPARSED)])
def test_lists_within_lists_end_somewhere_and_at_the_same_place_everywhere(depth, status):
    """A schema that refers to itself is checked as deep as the answer goes: the answer must not choose the stack."""
    schema = RewardComponent("json_schema", parameters={"json_schema": '{"type": "array", "items": {"$ref": "#"}}'})
    (result,) = graded([schema], query("[" * depth + "]" * depth))
    assert (result.status, result.reward) == (status, float(status is ParseStatus.OK))
