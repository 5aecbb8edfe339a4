"""Every built-in as a case of the property suite: what a truth, an answer, a perfect answer and junk are for it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.image_size import ImageSize
from moontune.values.mask import PolygonMask, RleMask, SvgMask
from moontune.values.output import DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.pose import Pose
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill

# A grid makes exact copies, shared edges and nested boxes common.
grid = st.integers(0, 8).map(lambda n: n / 8)
span = st.tuples(st.integers(0, 7), st.integers(1, 8)).map(lambda ends: (ends[0] / 8, min(8, sum(ends)) / 8))
true_boxes = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), span, span)
true_points = st.builds(Point, grid, grid)
anything = st.floats(allow_nan=True, allow_infinity=True)
wild_boxes = st.builds(Box, anything, anything, anything, anything)
wild_points = st.builds(Point, anything, anything)
JUNK_BOXES = (Box(2, 2, 3, 3), Box(0.5, 0.5, 0.5, 0.5), Box(0.9, 0.9, 0.1, 0.1), Box(math.nan, 0, 1, 1))
JUNK_POINTS = (Point(3.0, 3.0), Point(math.nan, 0.5), Point(math.inf, 0.0))
SIZE = ImageSize(640, 400)
IMAGE = Image("0" * 64)


def sample(skill: Skill, output: Output, truth: GroundTruth, tokens: int = 10) -> RewardSample:
    asked = {"question": "?"} if skill is Skill.QUERY else {"object": "thing"}
    return RewardSample(SkillRequest(skill, IMAGE, **asked), output, truth, tokens)


@dataclass(frozen=True)
class ObjectCase:
    """A reward of sets: lists of items against lists of labels.

    build: items and labels to a sample. items, labels: strategies of one. perfect: labels to items. junk: items that
    hit nothing. single: it grades exactly one item. wild: items with any numbers, None where items are text.
    blind: it does not see places, so that more items may pay. parameters: of the reward.
    """

    name: str
    build: Callable[[Sequence[Any], Sequence[Any]], RewardSample]
    items: st.SearchStrategy[Any]
    labels: st.SearchStrategy[Any]
    perfect: Callable[[Sequence[Any]], Sequence[Any]]
    junk: Sequence[Any]
    wild: st.SearchStrategy[Any] | None = None
    single: bool = False
    blind: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


def detect(items, labels) -> RewardSample:
    return sample(Skill.DETECT, DetectOutput(tuple(items)), GroundTruth(boxes=tuple(labels), image_size=SIZE))


def points_in(kind: str):
    def build(items, labels) -> RewardSample:
        return sample(Skill.POINT, PointOutput(tuple(items)), GroundTruth(**{kind: tuple(labels), "image_size": SIZE}))

    return build


def corners(box: Box) -> list[float]:
    return [box.x_min, box.y_min, box.x_max, box.y_max]


def written(kind: str, item: Callable[[Any], object], scale: tuple[float, float] = (1.0, 1.0)):
    """A query whose answer writes the items as JSON."""

    def build(items, labels) -> RewardSample:
        text = json.dumps([item(one) for one in items])
        return sample(Skill.QUERY, QueryOutput(text), GroundTruth(**{kind: tuple(labels), "image_size": SIZE}))

    return build


def box_item(box: Box) -> object:
    return {"bbox_2d": corners(box), "label": "thing"}


def own_points(boxes: Sequence[Box]) -> list[Point]:
    # Concentric boxes want points of their own: one point said twice is one point.
    return [Point(box.centre.x, box.centre.y + index / 1e4) for index, box in enumerate(boxes)]


def polygon(box: Box) -> PolygonMask:
    a, b, c, d = corners(box)
    return PolygonMask(((Point(a, b), Point(c, b), Point(c, d), Point(a, d)),))


def svg(box: Box) -> SvgMask:
    a, b, c, d = corners(box)
    return SvgMask(f"M {a} {b} L {c} {b} L {c} {d} L {a} {d} Z")


def rle(box: Box) -> RleMask:
    """On a grid of 8 by 8, whose lines the boxes keep to."""
    a, b, c, d = (round(8 * value) for value in corners(box))
    counts, inside, run = [], False, 0
    for place in range(64):
        column, row = divmod(place, 8)
        now = a <= column < c and b <= row < d
        if now != inside:
            counts.append(run)
            inside, run = now, 0
        run += 1
    return RleMask(8, 8, (*counts, run))


def mask_item(mask: Any) -> object:
    if isinstance(mask, RleMask):
        return {"size": [mask.height, mask.width], "counts": list(mask.counts)}
    if isinstance(mask, SvgMask):
        return {"path": mask.path}
    return {"polygon": [[[point.x, point.y] for point in ring] for ring in mask.rings]}


poses = st.builds(Pose, st.tuples(true_points, true_points, st.none() | true_points), st.sampled_from([0.01, 0.1, 0.5]))
_same = list


def _told(labels: Sequence[Pose]) -> list[Pose]:
    """With a place for what nobody knows, another one for each pose: poses that are the same are one pose."""
    return [
        Pose(tuple(p or Point(index / 1e3, 0.0) for p in pose.keypoints), pose.area)
        for index, pose in enumerate(labels)
    ]


_BOX = ("matched_iou", "soft_f_beta", "hard_f_beta", "mean_average_precision")
_ONE_BOX = ("iou", "giou", "step_iou", "clipped_iou")
_COUNTS = ("count_exact", "count_shaped", "rejection")


def _middles(masks: Sequence[PolygonMask]) -> list[Point]:
    rings = [mask.rings[0] for mask in masks]
    return [Point(sum(p.x for p in r) / 4, sum(p.y for p in r) / 4 + index / 1e4) for index, r in enumerate(rings)]


def _boxes(name: str, **more: Any) -> list[ObjectCase]:
    return [
        ObjectCase(name, detect, true_boxes, true_boxes, _same, JUNK_BOXES, wild_boxes, id=name, **more),
        ObjectCase(
            name,
            written("boxes", box_item),
            true_boxes,
            true_boxes,
            _same,
            JUNK_BOXES[:3],
            id=f"{name}-written",
            **more,
        ),
    ]


def _points(name: str, kind: str, labels: Any, perfect: Any, **more: Any) -> ObjectCase:
    return ObjectCase(
        name, points_in(kind), true_points, labels, perfect, JUNK_POINTS, wild_points, id=f"{name}-{kind}", **more
    )


OBJECT_CASES: tuple[ObjectCase, ...] = (
    *(case for name in _BOX for case in _boxes(name)),
    *(case for name in _ONE_BOX for case in _boxes(name, single=True)),
    ObjectCase(
        "confidence_calibration",
        written("boxes", lambda sure: {"bbox_2d": corners(sure[0]), "confidence": sure[1]}),
        st.tuples(true_boxes, st.sampled_from([0.0, 0.3, 1.0])),
        true_boxes,
        lambda boxes: [(box, 1.0) for box in boxes],
        [(box, confidence) for box in JUNK_BOXES[:3] for confidence in (0.0, 0.5, 1.0)],
        id="confidence",
    ),
    *(
        ObjectCase(name, detect, true_boxes, true_boxes, _same, JUNK_BOXES, wild_boxes, blind=True, id=name)
        for name in _COUNTS
    ),
    *(_points(name, "points", true_points, _same, blind=True) for name in _COUNTS),
    _points("point_in_box", "boxes", true_boxes, own_points),
    _points("point_in_mask", "masks", true_boxes.map(polygon), _middles),
    _points("point_gaussian", "boxes", true_boxes, lambda boxes: [box.centre for box in boxes]),
    _points("point_distance", "points", true_points, _same),
    *(
        ObjectCase(
            "mask_iou",
            written("masks", mask_item),
            true_boxes.map(form),
            true_boxes.map(form),
            _same,
            (polygon(Box(0, 0, 1e-9, 1e-9)),),
            id=f"mask_iou-{form.__name__}",
            parameters={"grid": 32.0},
        )
        for form in (polygon, svg, rle)
    ),
    ObjectCase(
        "keypoint_similarity",
        written("poses", lambda pose: {"keypoints": [[p.x, p.y] if p else [0.5, 0.5] for p in pose.keypoints]}),
        poses,
        poses,
        _told,
        (Pose((Point(1.0, 1.0),), 0.1),),
        id="keypoint_similarity",
    ),
)


@dataclass(frozen=True)
class TextCase:
    """A reward of texts. references: what may be labelled. perfect: an answer for them. wrong: what earns the least."""

    name: str
    references: st.SearchStrategy[tuple[str, ...]]
    perfect: Callable[[tuple[str, ...]], str]
    wrong: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    labelled: bool = True

    def build(self, text: str, references: Sequence[str] = (), tokens: int = 10) -> RewardSample:
        truth = GroundTruth(answers=tuple(references)) if self.labelled else GroundTruth()
        return sample(Skill.QUERY, QueryOutput(text), truth, tokens)


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
REFUSALS = ("none", "no", "nothing", "absent", "unanswerable")
phrases = st.lists(words, min_size=1, max_size=4).map(" ".join)
some_phrases = st.lists(phrases, min_size=1, max_size=3).map(tuple)
numbers = st.tuples(st.integers(-1000, 1000).map(str))
_first = lambda references: references[0]  # noqa: E731
_nothing = st.just(())

TEXT_CASES: tuple[TextCase, ...] = (
    TextCase("exact_match", some_phrases, _first, "~ ~~ wrong ~"),
    TextCase("contains", some_phrases, _first, "~ ~~ wrong ~"),
    TextCase("token_f1", some_phrases, _first, "~ ~~ wrong~wrong ~"),
    TextCase("edit_similarity", some_phrases, _first, ""),
    TextCase("anls", some_phrases, _first, "~" * 200),
    TextCase("numeric", numbers, lambda r: f"it is {r[0]} cm", "12345678"),
    TextCase("count_exact", numbers, _first, "none"),
    TextCase("count_shaped", numbers, _first, "12345678"),
    TextCase("rejection", some_phrases.filter(lambda r: r[0].casefold() not in REFUSALS), _first, "none"),
    TextCase("multiple_choice", st.tuples(st.sampled_from("ABCD")), lambda r: f"({r[0]})", "Z"),
    TextCase("yes_no", st.tuples(st.sampled_from(["yes", "no"])), _first, "maybe"),
    TextCase("class_name", st.tuples(st.sampled_from(["car", "cat"])), _first, "dog", {"classes": "car|auto\ncat"}),
    TextCase("regex", _nothing, lambda r: "abc", "", {"pattern": "[a-z]+"}, labelled=False),
    TextCase(
        "json_schema",
        _nothing,
        lambda r: '{"a": 1}',
        "[1",
        {"json_schema": '{"type": "object", "required": ["a"]}'},
        labelled=False,
    ),
    TextCase(
        "think_answer_tags",
        _nothing,
        lambda r: "<think>hm</think> <answer>x</answer>",
        "<answer>x</answer>",
        labelled=False,
    ),
    TextCase("answer_schema", _nothing, lambda r: "[[0, 0, 1, 1]]", "[[0, 0, 1]]", labelled=False),
    TextCase("repetition", _nothing, lambda r: "all of these words differ", "same " * 4000, labelled=False),
    TextCase(
        "soft_overlong", _nothing, lambda r: "short", "x", {"max_tokens": 5.0, "slope_tokens": 5.0}, labelled=False
    ),
)
