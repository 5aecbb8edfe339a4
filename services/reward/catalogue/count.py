"""How many: exact and shaped. Copies, boxes without area and objects outside the image do not count."""

import math
from collections.abc import Sequence

from moontune.errors import InvalidField
from moontune.evaluation.matching import MAX_COORDINATE
from moontune.values.geometry import Box, Point
from moontune.values.output import DetectOutput, PointOutput
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import first_copies
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.number import written_number
from services.reward.reading.text import answer_text
from services.reward.reading.unreadable import Unreadable


def said_count(sample: RewardSample) -> int:
    """Real objects said, copies once (as often as the labels repeat one)."""
    said: Sequence[Box | Point] = ()
    if isinstance(sample.output, DetectOutput):
        said = sample.output.objects
    elif isinstance(sample.output, PointOutput):
        said = sample.output.points
    (labels,) = sample.ground_truth.labels.values()
    return len(first_copies([one for one in said if _is_real(one)], labels))


def exact(sample: RewardSample, parameters: Parameters) -> float:
    """1 for the right count."""
    said, true = _said_and_true(sample)
    return float(said == true)


def shaped(sample: RewardSample, parameters: Parameters) -> float:
    """Less the further off."""
    said, true = _said_and_true(sample)
    return max(0.0, 1.0 - abs(said - true) / max(abs(true), 1.0))


def _said_and_true(sample: RewardSample) -> tuple[float, float]:
    if isinstance(sample.output, DetectOutput | PointOutput):
        (labels,) = sample.ground_truth.labels.values()
        return float(said_count(sample)), float(len(labels))
    reference = next(iter(sample.ground_truth.answers or ()), "0")
    try:
        true = written_number(reference)
    except Unreadable as error:
        raise InvalidField.of("ground_truth.answers[0]", reference, "a text with one number") from error
    return written_number(answer_text(sample)), true


def _is_real(one: Box | Point) -> bool:
    if isinstance(one, Point):
        return 0.0 <= one.x <= 1.0 and 0.0 <= one.y <= 1.0
    corners = (one.x_min, one.y_min, one.x_max, one.y_max)
    finite = all(math.isfinite(corner) and abs(corner) <= MAX_COORDINATE for corner in corners)
    return finite and one.area > 0.0 and one.x_min < 1.0 and one.y_min < 1.0 and one.x_max > 0.0 and one.y_max > 0.0


_SKILLS = (Skill.DETECT, Skill.POINT, Skill.QUERY)
_LABELS = (Label.BOXES, Label.POINTS, Label.MASKS, Label.ANSWERS)
_COUNTED = "n is the number of different real boxes or points, or the one number in a text answer."
_BEWARE = "it does not see where the objects are: weigh it low beside a reward that does, or gate it"

COUNT_EXACT = Entry(
    name="count_exact",
    formula=f"1 where n = n_gt, else 0. {_COUNTED}",
    source="R1-V (CLEVR counting)",
    beware=_BEWARE,
    skills=_SKILLS,
    labels=_LABELS,
    parameters=Parameters,
    grade=exact,
)

COUNT_SHAPED = Entry(
    name="count_shaped",
    formula=f"max(0, 1 - |n - n_gt| / max(n_gt, 1)). {_COUNTED}",
    source="R1-V's count with a slope",
    beware=_BEWARE,
    skills=_SKILLS,
    labels=_LABELS,
    parameters=Parameters,
    grade=shaped,
)
