"""Points against boxes (inside or not) and against points (by distance): Moondream's automatic rewards of point.

Both match one to one for the largest total and divide by max(n_pred, n_gt). Moondream's notes pair points with points
greedily; the best total is used here because it does not depend on the order in which points were said.
"""

import numpy as np

from moontune.evaluation.matching import containment_matrix, distance_matrix
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label, NumberParameter, Parameters
from services.reward.catalogue.objects import (
    absent_target,
    matched_total,
    predicted_points,
    true_boxes,
    true_points,
)


def in_box(sample: RewardSample, parameters: Parameters) -> float:
    """Points that lie in a box of their own, over the larger count."""
    predicted, actual = predicted_points(sample), true_boxes(sample)
    if not actual:
        return absent_target(len(predicted))
    total = matched_total(predicted, actual, lambda points: containment_matrix(points, actual))
    return total / max(len(predicted), len(actual))


def distance(sample: RewardSample, parameters: Parameters) -> float:
    """Sum of max(0, 1 - distance / radius) over the match, over the larger count."""
    predicted, actual, radius = predicted_points(sample), true_points(sample), parameters["radius"]
    if not actual:
        return absent_target(len(predicted))
    total = matched_total(
        predicted, actual, lambda points: np.maximum(0.0, 1.0 - distance_matrix(points, actual) / radius)
    )
    return total / max(len(predicted), len(actual))


_EMPTY = "Nothing there: 1 for silence, else max(0, 0.5 - 0.2 (n_pred - 1))."

POINT_IN_BOX = Entry(
    name="point_in_box",
    description=f"points inside a box, one to one, divided by max(n_pred, n_gt). {_EMPTY} Default of point with boxes.",
    skills=(Skill.POINT,),
    label=Label.BOXES,
    grade=in_box,
)

POINT_DISTANCE = Entry(
    name="point_distance",
    description="sum of max(0, 1 - distance / radius) over the one-to-one match with the largest total, divided by "
    f"max(n_pred, n_gt); distances in 0..1 of the image. {_EMPTY} Default of point with points (Moondream's rule).",
    skills=(Skill.POINT,),
    label=Label.POINTS,
    grade=distance,
    parameters=(NumberParameter("radius", 0.25, 0.001, 1.5, "distance at which the score reaches 0"),),
)
