"""What no reward of the catalogue may do, whatever the objects or the text: be gamed, escape its range, or break.

One suite for every built-in (`cases.py`). `pytest --hypothesis-profile=thorough` tries many more examples.
"""

import asyncio
import copy
import dataclasses
import json
import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.mask import SvgMask
from moontune.values.output import DetectOutput, QueryOutput
from moontune.values.reward import ParseStatus, RewardComponent, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue import CATALOGUE, entry_named
from services.reward.composite import Composite
from services.reward.grader import grade_all, grade_here
from tests.services.reward.cases import (
    JUNK_BOXES,
    OBJECT_CASES,
    SIZE,
    TEXT_CASES,
    corners,
    sample,
    true_boxes,
)

THOROUGH = settings.default is not None and settings.default.max_examples > 100
# A loaded machine must not fail a property: time is measured elsewhere. The few examples of the default run are the
# same every time; `thorough` looks for new ones.
EXAMPLES = settings(
    derandomize=not THOROUGH,
    max_examples=settings.default.max_examples if THOROUGH else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
objects = pytest.mark.parametrize("case", OBJECT_CASES, ids=lambda case: case.id)
texts = pytest.mark.parametrize("case", TEXT_CASES, ids=lambda case: case.name)
NEAR = 1e-9


def result_of(name, one, parameters=None):
    composite = Composite.of(RewardSpec((RewardComponent(name, parameters=parameters or {}),)), entry_named)
    (result,) = grade_here(composite, [one])
    assert result.status is not ParseStatus.FAILED, result.detail
    assert result.reward is not None
    return result


def value(case, one):
    return result_of(case.name, one, case.parameters).reward


def test_every_built_in_has_a_case():
    assert {case.name for case in (*OBJECT_CASES, *TEXT_CASES)} == set(CATALOGUE)


def drawn(data, case, *, wild=True, least=0, most=6, unique=True):
    """Items and labels; unique: no two labels want the same item (boxes around one centre want one point twice)."""
    items = st.one_of(case.items, case.wild) if wild and case.wild is not None else case.items
    said = data.draw(st.lists(items, min_size=least, max_size=most))
    distinct = (lambda label: repr(case.perfect([label]))) if unique else None
    labels = data.draw(st.lists(case.labels, max_size=5, unique_by=distinct))
    return said, labels


@objects
@EXAMPLES
@given(data=st.data())
def test_bounded_finite_repeatable_and_the_truth_untouched(case, data):
    said, labels = drawn(data, case, unique=False)
    one = case.build(said, labels)
    before = copy.deepcopy(one.ground_truth)
    first = value(case, one)
    entry = CATALOGUE[case.name]
    assert math.isfinite(first)
    assert entry.minimum <= first <= entry.maximum
    assert [value(case, one), value(case, one)] == [first, first]
    assert one.ground_truth == before


@objects
@EXAMPLES
@given(data=st.data())
def test_order_does_not_matter(case, data):
    said, labels = drawn(data, case)
    shuffled = case.build(data.draw(st.permutations(said)), data.draw(st.permutations(labels)))
    assert value(case, shuffled) == pytest.approx(value(case, case.build(said, labels)), abs=NEAR)


@objects
@EXAMPLES
@given(data=st.data())
def test_saying_something_again_never_pays(case, data):
    said, labels = drawn(data, case, wild=False, least=1)
    again = [*said, data.draw(st.sampled_from(said))]
    assert value(case, case.build(again, labels)) <= value(case, case.build(said, labels)) + NEAR


@objects
@EXAMPLES
@given(data=st.data())
def test_junk_never_pays(case, data):
    said, labels = drawn(data, case, least=1)
    padded = [*said, *data.draw(st.lists(st.sampled_from(case.junk), min_size=1, max_size=3))]
    assert value(case, case.build(padded, labels)) <= value(case, case.build(said, labels)) + NEAR


@objects
@EXAMPLES
@given(data=st.data())
def test_the_perfect_answer_is_the_maximum(case, data):
    labels = data.draw(st.lists(case.labels, min_size=1, max_size=1 if case.single else 5))
    if case.name == "keypoint_similarity":
        labels = [pose for pose in labels if any(pose.keypoints)] or []
    perfect = list(case.perfect(labels))
    assert value(case, case.build(perfect, labels)) == pytest.approx(CATALOGUE[case.name].maximum, abs=NEAR)
    if labels and not case.blind and case.name != "point_gaussian":
        assert value(case, case.build([*perfect, *perfect[:1]], labels)) < CATALOGUE[case.name].maximum


@objects
@EXAMPLES
@given(data=st.data())
def test_absent_targets_are_best_answered_with_silence(case, data):
    entry, one = CATALOGUE[case.name], data.draw(case.items)
    scores = [value(case, case.build([one] * count, [])) for count in range(6)]
    assert scores[0] == entry.maximum
    assert scores == sorted(scores, reverse=True)
    middle = (entry.minimum + entry.maximum) / 2
    assert scores[1] <= middle + NEAR


@objects
@EXAMPLES
@given(data=st.data())
def test_silence_where_something_is_earns_the_least(case, data):
    labels = data.draw(st.lists(case.labels, min_size=1, max_size=3, unique=True))
    least = 0.0 if case.name == "confidence_calibration" else CATALOGUE[case.name].minimum
    assert value(case, case.build([], labels)) == least


@objects
@EXAMPLES
@given(data=st.data())
def test_identical_rollouts_earn_the_same(case, data):
    said, labels = drawn(data, case)
    one = case.build(said, labels)
    spec = RewardSpec((RewardComponent(case.name, parameters=case.parameters),))
    results = asyncio.run(grade_all(spec, [one] * 3))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", [case.name for case in OBJECT_CASES if case.id.endswith("-written")])
@EXAMPLES
@given(
    boxes=st.lists(true_boxes, min_size=1, max_size=4),
    names=st.lists(st.sampled_from(["cat", "dog"]), min_size=4, max_size=4),
    extra=true_boxes,
)
def test_an_unknown_label_is_a_false_positive(name, boxes, names, extra):
    truth = GroundTruth(boxes=tuple(boxes), categories=tuple(names[: len(boxes)]))

    def graded(said, labels):
        items = [{"bbox_2d": corners(box), "label": label} for box, label in zip(said, labels, strict=True)]
        return result_of(name, sample(Skill.QUERY, QueryOutput(json.dumps(items)), truth)).reward

    if len(boxes) == 1 or name not in ("iou", "giou", "step_iou", "clipped_iou"):
        assert graded(boxes, [label.upper() for label in truth.categories]) == pytest.approx(1.0)
    said = graded(boxes[:1], names[:1])
    assert graded([boxes[0], extra], [names[0], "zebra"]) <= said + NEAR
    assert graded(boxes[:1], ["zebra"]) == CATALOGUE[name].minimum


@pytest.mark.parametrize("name", [case.name for case in OBJECT_CASES if case.id.endswith("-written")])
@EXAMPLES
@given(said=st.lists(true_boxes, max_size=4), labels=st.lists(true_boxes, max_size=4, unique=True))
def test_normalised_thousandths_and_pixel_coordinates_agree(name, said, labels):
    truth = GroundTruth(boxes=tuple(labels), image_size=SIZE)

    def graded(coordinates, across, down):
        rows = [[a * across, b * down, c * across, d * down] for a, b, c, d in map(corners, said)]
        one = sample(Skill.QUERY, QueryOutput(json.dumps(rows)), truth)
        return result_of(name, one, {"coordinates": coordinates}).reward

    unit = graded("unit", 1.0, 1.0)
    assert graded("thousand", 1000.0, 1000.0) == pytest.approx(unit, abs=NEAR)
    assert graded("pixel", SIZE.width, SIZE.height) == pytest.approx(unit, abs=NEAR)
    # What a detect output says is the same as the same boxes in words.
    native = sample(Skill.DETECT, DetectOutput(tuple(said)), truth)
    assert result_of(name, native).reward == pytest.approx(unit, abs=NEAR)


@pytest.mark.parametrize("junk", JUNK_BOXES[1:])
@pytest.mark.parametrize("name", ["iou", "giou", "matched_iou", "soft_f_beta", "mean_average_precision"])
def test_degenerate_boxes_earn_nothing(name, junk):
    one = sample(Skill.DETECT, DetectOutput((junk,)), GroundTruth(boxes=(Box(0, 0, 1, 1),)))
    assert result_of(name, one).reward == CATALOGUE[name].minimum


@texts
@EXAMPLES
@given(data=st.data(), text=st.text(max_size=80), tokens=st.integers(0, 10_000))
def test_texts_are_bounded_repeatable_and_the_order_of_references_does_not_matter(case, data, text, tokens):
    references = data.draw(case.references)
    one = case.build(text, references, tokens)
    first = value(case, one)
    entry = CATALOGUE[case.name]
    assert entry.minimum <= first <= entry.maximum
    assert value(case, one) == first
    if not case.name.startswith("count"):  # a count has one reference
        assert value(case, case.build(text, data.draw(st.permutations(references)), tokens)) == first


@texts
@EXAMPLES
@given(data=st.data())
def test_a_perfect_text_is_the_maximum_and_a_wrong_one_the_least(case, data):
    references, entry = data.draw(case.references), CATALOGUE[case.name]
    perfect = case.build(case.perfect(references), references, tokens=0)
    assert value(case, perfect) == pytest.approx(entry.maximum)
    wrong = value(case, case.build(case.wrong, references, tokens=100))
    assert wrong == pytest.approx(entry.minimum, abs=1e-3)  # repetition nears its least without reaching it


@texts
@EXAMPLES
@given(text=st.text(max_size=30))
def test_no_text_is_right_where_nothing_is_labelled_but_a_refusal(case, text):
    if case.labelled and not case.name.startswith("count"):
        known = case.name == "rejection" and result_of("rejection", case.build(text)).reward == 1.0
        assert known or value(case, case.build(text)) == 0.0


UNITS = [
    "a ",
    "word ",
    "-1.,",
    "\u0130",
    "\ufdfa",
    "((((",
    "\x00",
    "1,1",
    "[",
    '{"a":',
    "<answer>",
    "M 0 0 L 1 1 ",
    "9",
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if Skill.QUERY in entry.skills])
def test_huge_garbage_text_is_safe(name, unit):
    entry = CATALOGUE[name]
    by_label = {
        "boxes": GroundTruth(boxes=(Box(0, 0, 1, 1),)),
        "points": GroundTruth(points=(Point(0, 0),)),
        "masks": next(case for case in OBJECT_CASES if case.id == "mask_iou-rle").build([], []).ground_truth,
        "poses": next(case for case in OBJECT_CASES if case.id == "keypoint_similarity").build([], []).ground_truth,
        "answers": GroundTruth(
            answers=("A",) if name == "multiple_choice" else ("no",) if name == "yes_no" else ("7",)
        ),
    }
    truth = by_label["answers" if "answers" in entry.labels else entry.labels[0]] if entry.labels else GroundTruth()
    reward = result_of(name, sample(Skill.QUERY, QueryOutput(unit * 100_000), truth)).reward
    assert entry.minimum <= reward <= entry.maximum


@texts
@pytest.mark.parametrize("unit", ["word ", "a", "1 ", "<think>", "[1, "])
def test_time_is_linear_in_the_text(case, unit):
    """CPU time of this thread (not of the clock) for eight times the text: quadratic work would be 64 times."""
    references = {"multiple_choice": ("A",), "yes_no": ("no",)}.get(case.name, ("7",))

    def cost_s(length):
        one = case.build((unit * (length // len(unit))), references)
        costs = []
        for _ in range(3):
            before = time.thread_time()
            for _ in range(5):
                result_of(case.name, one, case.parameters)
            costs.append(time.thread_time() - before)
        return min(costs)

    assert cost_s(16_000) < 30 * (cost_s(2_000) + 0.002)


@pytest.mark.parametrize(
    "unit", ["z", "C 0 0 1 1 .5 .5 ", "A 1 1 0 0 1 .5 .5 ", "M0 0", "l1e308 1e308 ", "a0 0 0 0 0 0 0 "]
)
def test_time_is_linear_in_a_path(unit):
    truth = GroundTruth(masks=(SvgMask("M 0 0 L 1 0 L 1 1 Z"),))

    def cost_s(length):
        one = sample(Skill.QUERY, QueryOutput("M 0 0 " + unit * (length // len(unit))), truth)
        before = time.thread_time()
        result_of("mask_iou", one)
        return time.thread_time() - before

    assert cost_s(16_000) < 30 * (cost_s(2_000) + 0.02)


def test_two_hundred_boxes_against_two_hundred():
    boxes = [Box(i / 400, j / 40, i / 400 + 0.05, j / 40 + 0.1) for i in range(20) for j in range(10)]
    one = sample(Skill.DETECT, DetectOutput(tuple(boxes[::-1])), GroundTruth(boxes=tuple(boxes)))
    assert result_of("matched_iou", one).reward == pytest.approx(1.0)


def test_values_cannot_be_changed():
    one = OBJECT_CASES[0].build([], [Box(0, 0, 1, 1)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.ground_truth.boxes = ()
