"""Object keypoint similarity: COCO's measure for poses."""

import math

import numpy as np
from pydantic import Field

from moontune.values.geometry import Point
from moontune.values.image_size import ImageSize
from moontune.values.pose import Pose
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import ABSENT, over_larger_count
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import predicted_poses

COCO_SIGMAS = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
"""Thousandths, of COCO's 17 keypoints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles."""


class KeypointParameters(ObjectParameters):
    """How exact a keypoint can be labelled."""

    sigma: float = Field(0.05, ge=0.001, le=1.0, description="spread of people's labels, a share of the object's size")
    coco_sigmas: bool = Field(False, description="the 17 spreads of COCO's person keypoints in place of sigma")


def grade(sample: RewardSample, parameters: KeypointParameters) -> float:
    """Sum of OKS over the best one-to-one match of poses, over max(n_pred, n_gt)."""
    predicted, actual = predicted_poses(sample, parameters.coordinates), sample.ground_truth.poses or ()
    size = sample.ground_truth.image_size or ImageSize(1, 1)
    scores = [[oks(said, pose, _sigmas(pose, parameters), size) for pose in actual] for said in predicted]
    places = [pose.keypoints for pose in actual]
    return over_larger_count(np.array(scores).reshape(len(predicted), len(actual)), predicted, places)


def oks(said: tuple[Point, ...], pose: Pose, sigmas: list[float], size: ImageSize) -> float:
    """sum_i exp(-d_i^2 / (2 area (2 sigma_i)^2)) [labelled] / sum_i [labelled], distances and area in pixels.

    0 for a pose of another length. A keypoint that is not a finite place scores 0.
    """
    if len(said) != len(pose.keypoints):
        return 0.0
    area = pose.area * size.width * size.height
    similar: list[float] = []
    for place, true, sigma in zip(said, pose.keypoints, sigmas, strict=True):
        if true is not None:
            distance = math.hypot((place.x - true.x) * size.width, (place.y - true.y) * size.height)
            spread = 8.0 * sigma * sigma * area
            similar.append(math.exp(-(min(distance, 1e9) ** 2) / spread) if math.isfinite(distance) else 0.0)
    return sum(similar) / len(similar) if similar else 0.0


def _sigmas(pose: Pose, parameters: KeypointParameters) -> list[float]:
    if parameters.coco_sigmas and len(pose.keypoints) == len(COCO_SIGMAS):
        return [thousandths / 1000 for thousandths in COCO_SIGMAS]
    return [parameters.sigma] * len(pose.keypoints)


KEYPOINT_SIMILARITY = Entry(
    name="keypoint_similarity",
    formula="sum of OKS = mean over labelled keypoints of exp(-d^2 / (8 sigma^2 area)) over the one-to-one match of "
    f"poses with the largest total, divided by max(n_pred, n_gt). Keypoints count by their place in the list. {ABSENT} "
    "Default of point and query with poses.",
    source="COCO keypoint evaluation (Ronchi and Perona 2017)",
    beware="without ground_truth.image_size distances are those on a square image",
    skills=(Skill.POINT, Skill.QUERY),
    labels=(Label.POSES,),
    parameters=KeypointParameters,
    grade=grade,
)
