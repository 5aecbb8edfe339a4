"""The same quantities by pycocotools: IoU, mask IoU of run lengths and polygons, AP, OKS."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from moontune.evaluation.mask_raster import mask_iou_matrix, rasterise
from moontune.evaluation.matching import iou_matrix
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image_size import ImageSize
from moontune.values.mask import PolygonMask, RleMask
from moontune.values.output import QueryOutput
from moontune.values.pose import Pose
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue import entry_named
from services.reward.composite import Composite
from services.reward.grader import grade_here
from tests.services.reward.cases import corners, sample

# pycocotools' own arrays do not know NumPy 2's copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SEEDS = range(12)
WIDTH, HEIGHT = 640, 400


def value(name, one, **parameters):
    spec = RewardSpec((RewardComponent(name, parameters=parameters),))
    (result,) = grade_here(Composite.of(spec, entry_named), [one])
    assert result.reward is not None, result.detail
    return result.reward


def random_boxes(draw, count):
    starts, sides = draw.uniform(0, 0.6, (count, 2)), draw.uniform(0.05, 0.4, (count, 2))
    return [Box(*map(float, (x, y, x + w, y + h))) for (x, y), (w, h) in zip(starts, sides, strict=True)]


def pixels(box):
    """COCO's x, y, width, height."""
    return [box.x_min * WIDTH, box.y_min * HEIGHT, box.width * WIDTH, box.height * HEIGHT]


@pytest.mark.parametrize("seed", SEEDS)
def test_iou(seed):
    draw = np.random.default_rng(seed)
    predicted, actual = random_boxes(draw, 7), random_boxes(draw, 5)
    theirs = coco_mask.iou(np.array([pixels(b) for b in predicted]), np.array([pixels(b) for b in actual]), [0] * 5)
    np.testing.assert_allclose(iou_matrix(predicted, actual), theirs, atol=1e-12)


def blob(draw):
    """A filled ellipse as pixels."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    (y, x), (b, a) = draw.uniform(100, 300, 2), draw.uniform(20, 90, 2)
    return (((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 <= 1.0).astype(np.uint8)


@pytest.mark.parametrize("seed", SEEDS)
def test_mask_iou_of_run_lengths(seed):
    draw = np.random.default_rng(seed)
    theirs = [coco_mask.encode(np.asfortranarray(blob(draw))) for _ in range(4)]
    ours = [RleMask.from_coco(HEIGHT, WIDTH, rle["counts"].decode()) for rle in theirs]
    for mask in ours:
        mask.validate("mask")
    for rle, mask in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(rasterise(mask, HEIGHT, WIDTH), coco_mask.decode(rle).astype(bool))
    rasters = [rasterise(mask, HEIGHT, WIDTH) for mask in ours]
    expected = coco_mask.iou(theirs, theirs, [0] * 4)
    np.testing.assert_allclose(mask_iou_matrix(rasters, rasters), expected, atol=1e-12)
    # The whole reward, from the compressed text of an answer.
    said = json.dumps([{"size": [HEIGHT, WIDTH], "counts": theirs[0]["counts"].decode()}])
    one = sample(Skill.QUERY, QueryOutput(said), GroundTruth(masks=(ours[1],)))
    assert value("mask_iou", one) == pytest.approx(expected[0, 1], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_polygons_fill_the_same_pixels_but_for_the_edge(seed):
    draw = np.random.default_rng(seed)
    angles = np.sort(draw.uniform(0, 2 * np.pi, 9))
    reach = draw.uniform(40, 150, 9)
    ring = np.stack([320 + reach * np.cos(angles), 200 + reach * np.sin(angles)], axis=1)
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring.ravel().tolist()], HEIGHT, WIDTH))).astype(
        bool
    )
    ours = rasterise(PolygonMask((tuple(Point(x / WIDTH, y / HEIGHT) for x, y in ring),)), HEIGHT, WIDTH)
    # Theirs rounds corners to a fifth of a pixel; ours asks for each pixel's centre. They may differ along the edge.
    edge = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T).sum()
    assert (theirs != ours).sum() <= edge
    assert (theirs & ours).sum() / (theirs | ours).sum() > 0.97


def coco_stats(kind, annotations, results, keypoint_names=None, sigmas=None):
    """COCOeval on one image, quietly."""
    category = {"id": 1, "name": "thing"} | ({"keypoints": keypoint_names, "skeleton": []} if keypoint_names else {})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": 1, "width": WIDTH, "height": HEIGHT}],
            "categories": [category],
            "annotations": [
                {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0} | a for i, a in enumerate(annotations)
            ],
        }
        truth.createIndex()
        found = truth.loadRes([{"image_id": 1, "category_id": 1} | result for result in results])
        run = COCOeval(truth, found, kind)
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.array(sigmas)
        run.evaluate()
        run.accumulate()
    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_where_confidences_differ(seed):
    draw = np.random.default_rng(seed)
    actual = random_boxes(draw, 4)
    shifted = [Box(*(float(v + draw.normal(0, 0.012)) for v in corners(box))) for box in actual]
    predicted = [*shifted, *random_boxes(draw, 3)]
    confidences = draw.permutation(np.linspace(0.1, 0.9, len(predicted))).tolist()
    run = coco_stats(
        "bbox",
        [{"bbox": pixels(box), "area": pixels(box)[2] * pixels(box)[3]} for box in actual],
        [{"bbox": pixels(box), "score": c} for box, c in zip(predicted, confidences, strict=True)],
    )
    theirs = run.eval["precision"][:, :, 0, 0, -1].mean()
    items = [{"box": corners(box), "confidence": c} for box, c in zip(predicted, confidences, strict=True)]
    one = sample(Skill.QUERY, QueryOutput(json.dumps(items)), GroundTruth(boxes=tuple(actual)))
    assert value("mean_average_precision", one, length_penalty=False) == pytest.approx(theirs, abs=1e-9)
    assert value("mean_average_precision", one) == pytest.approx(theirs * 4 / 7, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_object_keypoint_similarity(seed):
    draw = np.random.default_rng(seed)
    known = [True, True, seed % 2 == 0, True, seed % 3 > 0]
    places = draw.uniform(0.2, 0.8, (5, 2))
    said = places + draw.normal(0, 0.03, (5, 2))
    area = float(draw.uniform(0.02, 0.3))
    flat = [v for (x, y), there in zip(places, known, strict=True) for v in (x * WIDTH, y * HEIGHT, 2 * there)]
    run = coco_stats(
        "keypoints",
        [
            {
                "bbox": [0, 0, WIDTH, HEIGHT],
                "area": area * WIDTH * HEIGHT,
                "keypoints": flat,
                "num_keypoints": sum(known),
            }
        ],
        [{"keypoints": [v for x, y in said for v in (x * WIDTH, y * HEIGHT, 1)], "score": 1.0}],
        keypoint_names=list("abcde"),
        sigmas=[0.05] * 5,
    )
    theirs = run.computeOks(1, 1)[0, 0]
    points = tuple(Point(float(x), float(y)) if there else None for (x, y), there in zip(places, known, strict=True))
    truth = GroundTruth(poses=(Pose(points, area),), image_size=ImageSize(WIDTH, HEIGHT))
    one = sample(Skill.QUERY, QueryOutput(json.dumps([{"keypoints": said.tolist()}])), truth)
    assert value("keypoint_similarity", one) == pytest.approx(theirs, abs=1e-9)
