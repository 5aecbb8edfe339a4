"""Known answers by hand for the rewards beyond Moondream's own."""

import json
import math

import pytest

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image_size import ImageSize
from moontune.values.mask import PolygonMask, RleMask, SvgMask
from moontune.values.output import PointOutput, QueryOutput
from moontune.values.pose import Pose
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus, RewardComponent, RewardSample
from moontune.values.skill import Skill
from tests.services.reward.test_catalogue import IMAGE, LEFT, QUARTER, RIGHT, detect, graded, point, query, value


def ask(answer, truth, tokens=10) -> RewardSample:
    return RewardSample(SkillRequest(Skill.QUERY, question="?"), QueryOutput(answer), truth, tokens)


def test_one_box():
    far = Box(0.9, 0.0, 1.0, 1.0)
    assert value("iou", detect([QUARTER], [LEFT])) == 0.5
    assert value("iou", detect([QUARTER], [RIGHT, LEFT])) == 0.5, "any labelled box is right"
    assert value("iou", detect([LEFT, LEFT], [LEFT])) == 0.0, "two boxes are no answer"
    assert value("giou", detect([far], [LEFT])) == pytest.approx(0.0 - (1.0 - 0.6) / 1.0)
    assert value("giou", detect([], [LEFT])) == -1.0
    assert value("giou", detect([LEFT], [])) == 0.0
    assert [value("step_iou", detect([QUARTER], [LEFT]), iou_threshold=at) for at in (0.5, 0.55)] == [1.0, 0.0]
    clip = [value("clipped_iou", detect([QUARTER], [LEFT]), low=low, high=high) for low, high in
            ((0.4, 0.75), (0.55, 0.75), (0.2, 0.45))]  # fmt: skip
    assert clip == [0.5, 0.0, 1.0]


def test_hard_f_beta_over_thresholds_and_average_precision():
    # IoU 0.5 and 1: at 0.5 both pairs count, at 0.55 to 0.95 one of them.
    sample = detect([QUARTER, RIGHT], [LEFT, RIGHT])
    assert value("hard_f_beta", sample, iou_threshold_max=0.95) == pytest.approx((1.0 + 9 * 0.5) / 10)
    # At 0.5 AP is 1. Above it one of two hits at one confidence: precision 1/2 up to recall 1/2, 51 of 101 recalls.
    assert value("mean_average_precision", sample) == pytest.approx((1.0 + 9 * 0.5 * 51 / 101) / 10)
    flooded = detect([LEFT, *[Box(0.9, 0.9, 0.91 + n / 1000, 1.0) for n in range(3)]], [LEFT])
    assert value("mean_average_precision", flooded) == pytest.approx(0.25 * 0.25)
    assert value("mean_average_precision", flooded, length_penalty=False) == pytest.approx(0.25)


def test_a_category_that_is_not_labelled_has_an_average_precision_of_0():
    truth = GroundTruth(boxes=(LEFT,), categories=("cat",))
    said = '[{"box": [0, 0, 0.5, 1], "label": "Cat"}, {"box": [0.5, 0, 1, 1], "label": "zebra"}]'
    assert value("mean_average_precision", ask(said, truth), length_penalty=False) == 0.5
    assert value("mean_average_precision", ask(said, truth)) == 0.25


def test_confidence():
    def said(*items, truth=(LEFT,)):
        text = json.dumps([{"box": [b.x_min, b.y_min, b.x_max, b.y_max], "score": c} for b, c in items])
        return value("confidence_calibration", ask(text, GroundTruth(boxes=truth)))

    assert said((LEFT, 0.8)) == pytest.approx(1 - 0.2**2)
    assert said((LEFT, 0.8), (RIGHT, 0.0)) == pytest.approx((1 - 0.2**2) / 2), "junk at confidence 0 is no income"
    assert said((RIGHT, 0.6)) == pytest.approx(-(0.6**2))
    assert said((RIGHT, 0.6), truth=()) == pytest.approx(-(0.6**2))


def test_counts_and_rejection():
    two, none = [LEFT, RIGHT], []
    assert value("count_exact", detect(two, two[::-1])) == 1.0
    assert value("count_shaped", detect([LEFT] * 5, two)) == 0.5, "copies are one object"
    assert value("count_shaped", point([Point(0.1, 0.1), Point(0.2, 0.2), Point(2, 2)], points=(Point(0, 0),))) == 0.0
    assert value("count_exact", query("There are three.", "3")) == 1.0
    assert value("count_shaped", query("5 cups", "4")) == pytest.approx(0.75)
    assert [value("rejection", detect(said, true)) for said, true in ((none, none), (two, none), (none, two))] == [
        1,
        0,
        0,
    ]
    assert value("rejection", query("None.")) == 1.0
    assert value("rejection", query("a cat")) == 0.0
    assert value("rejection", query("a cat", "dog")) == 1.0


def test_points_against_masks_and_gaussians():
    triangle = PolygonMask(((Point(0, 0), Point(1, 0), Point(0, 1)),))
    ring = SvgMask("M 0 0 L 1 0 L 1 1 L 0 1 Z M 0.2 0.2 L 0.2 0.8 L 0.8 0.8 L 0.8 0.2 Z")  # a hole in the middle
    half = RleMask(2, 2, (2, 2))  # the right column
    for mask, inside, outside in (
        (triangle, Point(0.2, 0.2), Point(0.8, 0.8)),
        (ring, Point(0.1, 0.5), Point(0.5, 0.5)),
        (half, Point(0.75, 0.1), Point(0.25, 0.1)),
    ):
        truth = GroundTruth(masks=(mask,))
        request = SkillRequest(Skill.POINT, IMAGE, object="thing")
        scores = [value("point_in_mask", RewardSample(request, PointOutput((p,)), truth)) for p in (inside, outside)]
        assert scores == [1.0, 0.0]
    box = Box(0.2, 0.2, 0.6, 0.4)  # sigma 0.2 across and 0.1 down
    assert value("point_gaussian", point([Point(0.6, 0.3)], boxes=(box,))) == pytest.approx(math.exp(-0.5))
    assert value("point_gaussian", point([Point(0.5, 0.35)], boxes=(box,))) == pytest.approx(math.exp(-0.25))


def test_masks_in_three_forms():
    truth = GroundTruth(masks=(RleMask(4, 4, (0, 8, 8)),), image_size=ImageSize(400, 200))  # the left half
    for text in (
        "M 0 0 L 0.25 0 L 0.25 1 L 0 1 Z",
        '[{"polygon": [[0, 0], [0.25, 0], [0.25, 1], [0, 1]]}]',
        '[{"segmentation": [[0, 0, 0.25, 0, 0.25, 1, 0, 1]]}]',
        '```json\n{"size": [4, 4], "counts": [0, 4, 12]}\n```',
    ):
        assert value("mask_iou", ask(text, truth)) == 0.5, text
    assert value("mask_iou", ask("M 0 0 L 100 0 L 100 200 L 0 200 Z", truth), coordinates="pixel") == 0.5
    curved = "M 0.5 0 C 0.5 0 0.5 1 0.5 1 L 0 1 L 0 0 Z"
    assert value("mask_iou", ask(curved, truth)) == 1.0


def test_keypoints():
    pose = Pose((Point(0.5, 0.5), None, Point(0.2, 0.2)), 0.25)
    spread = 8 * 0.05**2 * 0.25
    off = math.exp(-(0.1**2) / spread)
    said = PointOutput((Point(0.6, 0.5), Point(0.9, 0.9), Point(0.2, 0.2)))
    sample = RewardSample(SkillRequest(Skill.POINT, IMAGE, object="cat"), said, GroundTruth(poses=(pose,)))
    assert value("keypoint_similarity", sample) == pytest.approx((off + 1) / 2)
    assert value("keypoint_similarity", ask("[]", GroundTruth(poses=(pose,)))) == 0.0


@pytest.mark.parametrize(
    ("name", "answer", "references", "parameters", "expected"),
    [
        ("edit_similarity", "kitten", ("sitting",), {}, 1 - 3 / 7),
        ("edit_similarity", "KITTEN", ("kitten",), {"case_sensitive": True}, 0.0),
        ("anls", "kitten", ("sitting",), {}, 1 - 3 / 7),
        ("anls", "kitten", ("sitting",), {"threshold": 0.6}, 0.0),
        ("numeric", "about 3.14 m", ("3.1416",), {"relative_tolerance": 0.01}, 1.0),
        ("numeric", "1,234", ("1234",), {}, 1.0),
        ("numeric", "3 or 4", ("3",), {}, 0.0),
        ("numeric", "-3", ("3",), {}, 0.0),
        ("multiple_choice", "The answer is B, as A is wrong", ("(B)",), {}, 1.0),
        ("multiple_choice", "A cat sits there", ("A",), {}, 0.0),
        ("multiple_choice", "b", ("B",), {}, 1.0),
        ("multiple_choice", "(A) or (B)", ("A",), {}, 0.0),
        ("yes_no", "Yes, it is.", ("yes",), {}, 1.0),
        ("yes_no", "yes and no", ("yes",), {}, 0.0),
        ("yes_no", "", ("no",), {}, 0.0),
        ("class_name", "an automobile", ("car",), {"classes": "car|automobile\ncat"}, 1.0),
        ("class_name", "cat", ("car",), {"classes": "car|automobile\ncat"}, 0.0),
        ("exact_match", "<answer> cat </answer>", ("Cat",), {}, 1.0),
        ("exact_match", "<answer>cat</answer><answer>dog</answer>", ("cat",), {}, 0.0),
        ("regex", "ab12", (), {"pattern": "[a-z]+", "whole": False}, 1.0),
        ("regex", "ab12", (), {"pattern": "[a-z]+"}, 0.0),
        ("regex", "AB", (), {"pattern": "[a-z]+", "ignore_case": True}, 1.0),
        ("json_schema", '```json\n{"a": 1}\n```', (), {"json_schema": '{"required": ["a"]}'}, 1.0),
        ("json_schema", '{"b": 1}', (), {"json_schema": '{"required": ["a"]}'}, 0.0),
        ("think_answer_tags", "<think>a</think>\n<answer>b</answer>", (), {}, 1.0),
        ("think_answer_tags", "<think>a</think><answer>b</answer><answer>c</answer>", (), {}, 0.0),
        ("think_answer_tags", "so <think>a</think><answer>b</answer>", (), {}, 0.0),
        ("answer_schema", '[{"bbox_2d": [0, 0, 1, 1], "label": "a"}, {"bbox_2d": [1, 0, 0, 1]}]', (), {}, 0.5),
        ("answer_schema", '[{"point": [0, 0]}]', (), {"item": "point", "label": True}, 0.0),
        ("repetition", "a b a b a b", (), {"words": 2.0}, 2 / 5 - 1),
    ],
)
def test_texts_by_hand(name, answer, references, parameters, expected):
    truth = GroundTruth(answers=references) if references else GroundTruth()
    assert value(name, ask(answer, truth), **parameters) == pytest.approx(expected)


def test_soft_overlong():
    values = [value("soft_overlong", ask("x", GroundTruth(), tokens)) for tokens in (0, 384, 448, 512, 5000)]
    assert values == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(InvalidField, match="token_count is None"):
        graded([RewardComponent("soft_overlong")], query("x", "x"))


def test_an_answer_that_cannot_be_read_has_the_least_value_and_says_why():
    for text in ("no idea", "[[0, 0, 1]]", "[" * 5000, '[{"bbox_2d": [NaN, 0, 1, 1]}]', "[[0,0,1,1]] [[0,0,1,1]]"):
        (result,) = graded([RewardComponent("giou")], ask(text, GroundTruth(boxes=(LEFT,))))
        assert (result.reward, result.status) == (-1.0, ParseStatus.UNPARSED), text
        assert result.detail.startswith("giou: ")


def test_pixels_need_the_images_size():
    sample = ask("[[0, 0, 10, 10]]", GroundTruth(boxes=(LEFT,)))
    (result,) = graded([RewardComponent("iou", parameters={"coordinates": "pixel"})], sample)
    assert (result.reward, result.status) == (None, ParseStatus.FAILED)
    assert "ground_truth.image_size" in result.detail
