"""Points against boxes, masks and points: inside or not, by a Gaussian, or by distance.

All match one to one for the largest total and divide by max(n_pred, n_gt). Moondream's notes pair points with points
greedily; the best total is used here because it does not depend on the order in which points were said.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from moontune.evaluation.mask_raster import cover_matrix
from moontune.evaluation.matching import Scores, containment_matrix, distance_matrix
from moontune.values.geometry import Box, Point
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import ABSENT, over_larger_count
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import predicted_points


class DistanceParameters(ObjectParameters):
    """How far is too far."""

    radius: float = Field(0.25, ge=0.001, le=1.5, description="distance at which the score reaches 0")


class GaussianParameters(ObjectParameters):
    """How fast the score falls."""

    sigma: float = Field(
        0.5, ge=0.05, le=5.0, description="standard deviation, as a share of the box's width and height"
    )


def in_box(sample: RewardSample, parameters: ObjectParameters) -> float:
    """Points that lie in a box of their own."""
    predicted, actual = predicted_points(sample, parameters.coordinates), sample.ground_truth.boxes or ()
    return over_larger_count(containment_matrix(predicted, actual), predicted, actual)


def in_mask(sample: RewardSample, parameters: ObjectParameters) -> float:
    """Points that lie in a mask of their own."""
    predicted, actual = predicted_points(sample, parameters.coordinates), sample.ground_truth.masks or ()
    return over_larger_count(cover_matrix(predicted, actual), predicted, actual)


def gaussian(sample: RewardSample, parameters: GaussianParameters) -> float:
    """exp(-((dx / sigma w)^2 + (dy / sigma h)^2) / 2) from the box's centre."""
    predicted, actual = predicted_points(sample, parameters.coordinates), sample.ground_truth.boxes or ()
    centres = [box.centre for box in actual]  # boxes around one centre want it as often
    return over_larger_count(_gaussian_matrix(predicted, actual, parameters.sigma), predicted, centres)


def distance(sample: RewardSample, parameters: DistanceParameters) -> float:
    """max(0, 1 - distance / radius)."""
    predicted, actual = predicted_points(sample, parameters.coordinates), sample.ground_truth.points or ()
    closeness = np.maximum(0.0, 1.0 - distance_matrix(predicted, actual) / parameters.radius)
    return over_larger_count(closeness, predicted, actual)


def _gaussian_matrix(predicted: Sequence[Point], actual: Sequence[Box], sigma: float) -> Scores:
    if not predicted or not actual:
        return np.zeros((len(predicted), len(actual)))
    places = np.array([(point.x, point.y) for point in predicted], dtype=np.float64)
    usable = np.abs(places).max(axis=1) <= 10.0  # false for NaN too
    places[~usable] = 0.0
    centres = np.array([(box.centre.x, box.centre.y) for box in actual], dtype=np.float64)
    spreads = sigma * np.maximum(np.array([(box.width, box.height) for box in actual], dtype=np.float64), 1e-6)
    steps = (places[:, None, :] - centres[None, :, :]) / spreads[None, :, :]
    return np.where(usable[:, None], np.exp(-0.5 * (steps * steps).sum(axis=-1)), 0.0)


_SKILLS = (Skill.POINT, Skill.QUERY)
_MATCH = "over the one-to-one match with the largest total, divided by max(n_pred, n_gt)."

POINT_IN_BOX = Entry(
    name="point_in_box",
    formula=f"points inside a box {_MATCH} {ABSENT} Default of point with boxes.",
    source="Moondream's automatic reward; ViGoRL, Rex-Omni",
    beware="anywhere in the box is right, and nested boxes share points: masks or point_gaussian say more",
    skills=_SKILLS,
    labels=(Label.BOXES,),
    parameters=ObjectParameters,
    grade=in_box,
)

POINT_IN_MASK = Entry(
    name="point_in_mask",
    formula=f"points inside a mask (run lengths, polygon or SVG path) {_MATCH} {ABSENT} Default of point with masks.",
    source="Rex-Omni",
    skills=_SKILLS,
    labels=(Label.MASKS,),
    parameters=ObjectParameters,
    grade=in_mask,
)

POINT_GAUSSIAN = Entry(
    name="point_gaussian",
    formula="sum of exp(-((dx / (sigma w))^2 + (dy / (sigma h))^2) / 2), d from the centre of a box of width w and "
    f"height h, {_MATCH} {ABSENT}",
    source="GUI-G2 (sigma 0.5)",
    skills=_SKILLS,
    labels=(Label.BOXES,),
    parameters=GaussianParameters,
    grade=gaussian,
)

POINT_DISTANCE = Entry(
    name="point_distance",
    formula=f"sum of max(0, 1 - distance / radius) {_MATCH} Distances in 0..1 of the image, as on a square. "
    f"{ABSENT} Default of point with points.",
    source="Moondream's automatic reward (radius 0.25)",
    skills=_SKILLS,
    labels=(Label.POINTS,),
    parameters=DistanceParameters,
    grade=distance,
)
