"""The evaluator by hand-computed numbers, and the properties that its users lean on."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontune.errors import InvalidField
from moontune.evaluation import (
    METRICS,
    MatchCounts,
    Tally,
    default_metric,
    detect_counts,
    evaluate,
    f1,
    greedy_matches,
    iou_matrix,
    is_exact_match,
    metric_named,
    most_matches,
    normalise,
    optimal_matches,
    paired_difference,
    point_in_box_counts,
    point_near_counts,
    pooled,
    pooled_interval,
)
from moontune.values.geometry import Box, Point, iou
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import DetectOutput, PointOutput, QueryOutput
from moontune.values.skill import Skill

HALF = Box(0.0, 0.0, 0.5, 1.0)
QUARTER = Box(0.0, 0.0, 0.25, 1.0)

unit = st.floats(0.0, 1.0, allow_nan=False)
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
boxes = st.builds(lambda a, b, c, d: Box(min(a, b), min(c, d), max(a, b), max(c, d)), unit, unit, unit, unit)


def test_iou_matrix_by_hand():
    matrix = iou_matrix([HALF, QUARTER], [HALF, Box(0.5, 0.0, 1.0, 1.0)])
    assert matrix.tolist() == [[1.0, 0.0], [0.5, 0.0]]
    assert iou_matrix([], [HALF]).shape == (0, 1)
    assert iou_matrix([Box(float("nan"), 0, 1, 1), Box(0.3, 0.3, 0.3, 0.9)], [HALF]).tolist() == [[0.0], [0.0]]


@EXAMPLES
@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5))
def test_iou_matrix_agrees_with_the_scalar_form(left, right):
    expected = np.array([[iou(a, b) for b in right] for a in left]).reshape(len(left), len(right))
    np.testing.assert_allclose(iou_matrix(left, right), expected, atol=1e-12)


def test_greedy_takes_the_best_pair_and_can_lose_a_second_one():
    scores = np.array([[0.9, 0.8], [0.8, 0.0]])
    assert [(m.predicted, m.actual) for m in greedy_matches(scores)] == [(0, 0)]
    best = {(m.predicted, m.actual) for m in optimal_matches(scores)}
    assert best == {(0, 1), (1, 0)}
    assert len(most_matches(scores, 0.5)) == 2
    assert most_matches(scores, 0.85)[0].score == 0.9


@EXAMPLES
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_matchings_against_brute_force(rows, columns, seed, threshold):
    scores = np.round(np.random.default_rng(seed).random((rows, columns)), 2)
    wide = scores if rows <= columns else scores.T
    choices = list(itertools.permutations(range(wide.shape[1]), wide.shape[0]))
    best = max(sum(wide[i, c] for i, c in enumerate(choice)) for choice in choices)
    assert sum(m.score for m in optimal_matches(scores)) == pytest.approx(best)
    most = max(sum(wide[i, c] >= threshold for i, c in enumerate(choice)) for choice in choices)
    found = most_matches(scores, threshold)
    assert len(found) == most
    assert len({m.predicted for m in found}) == len({m.actual for m in found}) == most


def test_detect_counts_and_pooled_f1_by_hand():
    perfect = detect_counts([HALF], [HALF])
    half_overlap = detect_counts([QUARTER], [HALF])  # IoU is exactly 0.5: counts
    duplicated = detect_counts([HALF, HALF, QUARTER], [HALF])
    silent = detect_counts([], [HALF, QUARTER])
    assert perfect == half_overlap == MatchCounts(1, 1, 1)
    assert duplicated == MatchCounts(1, 3, 1)
    assert (duplicated.precision, duplicated.recall) == (1 / 3, 1.0)
    # tp 3 over 5 predictions and 5 objects
    assert f1([perfect, half_overlap, duplicated, silent]) == pytest.approx(6 / 10)
    assert detect_counts([QUARTER], [HALF], 0.75).matched == 0
    assert f1([MatchCounts(0, 0, 0)]) == 1.0
    assert f1([MatchCounts(0, 1, 0)]) == 0.0
    assert perfect + silent == MatchCounts(1, 1, 3)


def test_points_in_nested_boxes_are_matched_as_well_as_possible():
    outer, inner = Box(0, 0, 1, 1), Box(0.4, 0.4, 0.6, 0.6)
    both = [Point(0.5, 0.5), Point(0.1, 0.1)]
    assert point_in_box_counts(both, [outer, inner]) == MatchCounts(2, 2, 2)
    assert point_in_box_counts(both[::-1], [outer, inner]) == MatchCounts(2, 2, 2)
    assert point_in_box_counts([Point(0.5, 0.5)] * 3, [inner]) == MatchCounts(1, 3, 1)
    assert point_near_counts([Point(0.5, 0.5), Point(0.9, 0.5)], [Point(0.53, 0.539)]) == MatchCounts(1, 2, 1)
    assert point_near_counts([Point(float("nan"), 0.5)], [Point(0.5, 0.5)]).matched == 0


@pytest.mark.parametrize(
    ("answer", "references", "right"),
    [
        (" The Red  Car. ", ["red car"], True),
        ("red cars", ["red car"], False),
        ("seven", ["7", "Seven"], True),
        ("1.5", ["15"], False),
        ("-3", ["3"], False),
        ("1,000", ["1000"], True),
        ("a", ["a"], True),
        ("a", ["the"], False),
        ("?", ["!"], False),
        ("", [""], False),
        ("about .5?", ["about 5"], False),
        ("well-known", ["well known"], True),
        ("\uff21b", ["ab"], True),
    ],
)
def test_exact_match(answer, references, right):
    assert is_exact_match(answer, references) is right


@EXAMPLES
@given(st.text(max_size=200))
def test_normalising_twice_changes_nothing_more(text):
    assert normalise(normalise(text)) == normalise(text)


def test_the_metrics_by_name():
    detect = GroundTruth(boxes=(HALF,))
    value, tallies = evaluate(METRICS["f1_iou50"], [DetectOutput((HALF, QUARTER))], [detect])
    assert value == pytest.approx(2 / 3)
    assert tallies == [Tally(2.0, 3.0)]
    assert evaluate(METRICS["f1_in_box"], [PointOutput((Point(0.2, 0.2),))], [detect])[0] == 1.0
    answers = GroundTruth(answers=("yes",))
    outputs = [QueryOutput("Yes."), QueryOutput("no")]
    assert evaluate(METRICS["exact_match"], outputs, [answers, answers])[0] == 0.5
    assert default_metric(Skill.POINT, detect).name == "f1_in_box"
    assert default_metric(Skill.POINT, GroundTruth(points=())).name == "f1_near"
    with pytest.raises(InvalidField, match="f1_iou50, f1_iou75"):
        metric_named("map")
    with pytest.raises(InvalidField, match="ground-truth boxes"):
        evaluate(METRICS["f1_iou50"], [DetectOutput(())], [answers])
    with pytest.raises(InvalidField, match="one for each of 1"):
        evaluate(METRICS["f1_iou50"], [], [detect])


def test_the_paired_interval_is_tight_where_systems_differ_alike():
    generator = np.random.default_rng(1)
    hits = generator.random(200) < 0.5
    before = [Tally(float(hit), 1.0) for hit in hits]
    gained = [Tally(1.0 if index % 5 == 0 else tally.numerator, 1.0) for index, tally in enumerate(before)]
    interval = paired_difference(before, gained)
    assert interval.estimate == pytest.approx(pooled(gained) - pooled(before))
    assert 0.0 < interval.low < interval.estimate < interval.high < 0.2
    assert paired_difference(before, gained) == interval
    assert paired_difference(before, gained, seed=1) != interval
    same = paired_difference(before, before)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_share_has_the_width_that_theory_gives():
    tallies = [Tally(float(index < 100), 1.0) for index in range(400)]
    interval = pooled_interval(tallies, resamples=20_000)
    standard_error = (0.25 * 0.75 / 400) ** 0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.05)


def test_the_bootstrap_refuses_what_it_cannot_pair():
    with pytest.raises(InvalidField, match="as many as before"):
        paired_difference([Tally(1, 1)], [])
    with pytest.raises(InvalidField, match="at least 1"):
        paired_difference([], [])
    with pytest.raises(InvalidField, match="less than 1"):
        pooled_interval([Tally(1, 1)], confidence=1.0)
