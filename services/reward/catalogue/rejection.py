"""Whether an absent target is rejected, and a present one is not."""

from pydantic import Field

from moontune.evaluation.exact_match import normalise
from moontune.values.output import DetectOutput, PointOutput
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.count import said_count
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.text import answer_text


class RejectionParameters(Parameters):
    """How a text answer rejects."""

    refusals: str = Field(
        "none, no, nothing, not present, absent, unanswerable",
        max_length=2000,
        description="texts, separated by commas, that say that nothing is there",
    )


def grade(sample: RewardSample, parameters: RejectionParameters) -> float:
    """1 for silence where nothing is, 1 for anything real where something is."""
    (labels,) = sample.ground_truth.labels.values()
    if isinstance(sample.output, DetectOutput | PointOutput):
        return float((said_count(sample) > 0) == bool(labels))
    said = normalise(answer_text(sample))
    refusals = {normalise(text) for text in parameters.refusals.split(",")}
    return float(bool(said) and (said not in refusals) == bool(labels))


REJECTION = Entry(
    name="rejection",
    formula="nothing is there: 1 for silence (or a refusal, and nothing else, in a text answer), else 0; something is "
    "there: 1 for any real object (or any other text), else 0.",
    source="Rex-Omni, VLM-R1's None; the false positives of VLM-R1 issues 261 and 318 are why",
    beware="it does not see where or what: use it as a gate or beside a reward that does, and have absent targets "
    "among the samples",
    skills=(Skill.DETECT, Skill.POINT, Skill.QUERY),
    labels=(Label.BOXES, Label.POINTS, Label.MASKS, Label.ANSWERS),
    parameters=RejectionParameters,
    grade=grade,
)
