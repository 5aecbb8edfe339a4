"""What no reward of the catalogue may do, whatever the boxes or the text: be gamed, escape its range, or break."""

import copy
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import DetectOutput, PointOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus, RewardComponent, RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue import CATALOGUE
from services.reward.grader import Composite, RewardSpec

DETECT = ["matched_iou", "soft_f_beta", "hard_f_beta"]
POINT = ["point_in_box", "point_distance"]
TEXT = ["exact_match", "contains", "token_f1"]

# A grid makes exact copies, shared edges and nested boxes common.
grid = st.integers(0, 8).map(lambda n: n / 8)


span = st.tuples(st.integers(0, 7), st.integers(1, 8)).map(lambda ends: (ends[0] / 8, min(8, sum(ends)) / 8))
true_box = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), span, span)
anything = st.floats(allow_nan=True, allow_infinity=True)
any_box = st.one_of(true_box, st.builds(Box, anything, anything, anything, anything))
true_point = st.builds(Point, grid, grid)
any_point = st.one_of(true_point, st.builds(Point, anything, anything))

# A loaded machine must not fail a property: time is measured elsewhere.
EXAMPLES = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sample_of(name, predicted, actual):
    if name in DETECT:
        request = SkillRequest(Skill.DETECT, Image("0" * 64), object="thing")
        return RewardSample(request, DetectOutput(tuple(predicted)), GroundTruth(boxes=tuple(actual)))
    request = SkillRequest(Skill.POINT, Image("0" * 64), object="thing")
    if name == "point_in_box":
        return RewardSample(request, PointOutput(tuple(predicted)), GroundTruth(boxes=tuple(actual)))
    return RewardSample(request, PointOutput(tuple(predicted)), GroundTruth(points=tuple(actual)))


def value(name, sample):
    result = Composite.of(RewardSpec((RewardComponent(name),))).grade(sample)
    assert result.status is not ParseStatus.FAILED, result.detail
    assert result.reward is not None
    return result.reward


def predictions(name, wild=True, least=0):
    if name in DETECT:
        return st.lists(any_box if wild else true_box, min_size=least, max_size=6)
    return st.lists(any_point if wild else true_point, min_size=least, max_size=6)


def truths(name, **sizes):
    element = true_point if name == "point_distance" else true_box
    return st.lists(element, **{"max_size": 5, "unique": True} | sizes)


@pytest.mark.parametrize("name", DETECT + POINT)
@EXAMPLES
@given(data=st.data())
def test_bounded_finite_repeatable_and_the_truth_untouched(name, data):
    predicted, actual = data.draw(predictions(name)), data.draw(truths(name))
    sample = sample_of(name, predicted, actual)
    before = copy.deepcopy(sample.ground_truth)
    first = value(name, sample)
    assert math.isfinite(first)
    assert CATALOGUE[name].minimum <= first <= CATALOGUE[name].maximum
    assert value(name, sample) == first
    assert sample.ground_truth == before


@pytest.mark.parametrize("name", DETECT + POINT)
@EXAMPLES
@given(data=st.data())
def test_order_does_not_matter(name, data):
    predicted, actual = data.draw(predictions(name)), data.draw(truths(name))
    shuffled = sample_of(name, data.draw(st.permutations(predicted)), data.draw(st.permutations(actual)))
    assert value(name, shuffled) == pytest.approx(value(name, sample_of(name, predicted, actual)), abs=1e-9)


@pytest.mark.parametrize("name", DETECT + POINT)
@EXAMPLES
@given(data=st.data())
def test_saying_something_again_never_pays(name, data):
    predicted = data.draw(predictions(name, wild=False, least=1))
    actual = data.draw(truths(name))
    again = [*predicted, data.draw(st.sampled_from(predicted))]
    more, less = value(name, sample_of(name, again, actual)), value(name, sample_of(name, predicted, actual))
    assert more <= less + 1e-9


@pytest.mark.parametrize("name", DETECT + POINT)
@EXAMPLES
@given(data=st.data())
def test_junk_never_pays(name, data):
    predicted, actual = data.draw(predictions(name)), data.draw(truths(name))
    if name in DETECT:
        junk = st.sampled_from(
            [Box(2, 2, 3, 3), Box(0.5, 0.5, 0.5, 0.5), Box(0.9, 0.9, 0.1, 0.1), Box(math.nan, 0, 1, 1)]
        )
    else:
        junk = st.sampled_from([Point(3.0, 3.0), Point(math.nan, 0.5), Point(math.inf, 0.0)])
    padded = [*predicted, *data.draw(st.lists(junk, min_size=1, max_size=3))]
    assert value(name, sample_of(name, padded, actual)) <= value(name, sample_of(name, predicted, actual)) + 1e-9


@pytest.mark.parametrize("name", DETECT + POINT)
@EXAMPLES
@given(data=st.data())
def test_the_perfect_answer_is_the_maximum(name, data):
    actual = data.draw(truths(name, unique=False))
    # Concentric boxes want points of their own: one point said twice is one point.
    perfect = actual
    if name == "point_in_box":
        perfect = [Point(box.centre.x, box.centre.y + index / 1e4) for index, box in enumerate(actual)]
    assert value(name, sample_of(name, perfect, actual)) == pytest.approx(1.0)
    assert value(name, sample_of(name, perfect + perfect[:1], actual)) < 1.0 or not actual


@pytest.mark.parametrize("name", DETECT + POINT)
def test_absent_targets_are_best_answered_with_silence(name):
    something = [Box(0, 0, 0.5, 0.5)] if name in DETECT else [Point(0.5, 0.5)]
    scores = [value(name, sample_of(name, something * count, [])) for count in range(6)]
    assert scores[0] == 1.0
    assert scores == sorted(scores, reverse=True)
    assert scores[1] <= 0.5


@pytest.mark.parametrize("name", TEXT)
@EXAMPLES
@given(answer=st.text(max_size=60), references=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_text_is_bounded_and_a_reference_itself_is_perfect(name, answer, references):
    def graded(text):
        request = SkillRequest(Skill.QUERY, question="?")
        return value(name, RewardSample(request, QueryOutput(text), GroundTruth(answers=tuple(references))))

    assert 0.0 <= graded(answer) <= 1.0
    if references[0].strip():
        assert graded(references[0]) == 1.0


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("unit", ["a ", "word ", "-1.,", "\u0130", "\ufdfa", "((((", "\x00", "1,1"])
def test_huge_garbage_text_is_safe(name, unit):
    request = SkillRequest(Skill.QUERY, question="?")
    huge = RewardSample(request, QueryOutput(unit * 1_000_000), GroundTruth(answers=("word " * 2000, "yes")))
    assert 0.0 <= value(name, huge) < 1.0


def test_two_hundred_boxes_against_two_hundred():
    boxes = [Box(i / 400, j / 40, i / 400 + 0.05, j / 40 + 0.1) for i in range(20) for j in range(10)]
    assert value("matched_iou", sample_of("matched_iou", boxes[::-1], boxes)) == pytest.approx(1.0)
