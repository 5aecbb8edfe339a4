"""A number in a text answer, with tolerance."""

import math

from pydantic import Field

from moontune.errors import InvalidField
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.number import written_number
from services.reward.reading.text import answer_text
from services.reward.reading.unreadable import Unreadable


class NumericParameters(Parameters):
    """How near is right."""

    absolute_tolerance: float = Field(1e-9, ge=0.0, le=1e12, description="largest difference that is right")
    relative_tolerance: float = Field(0.0, ge=0.0, le=1.0, description="largest difference as a share of the reference")


def grade(sample: RewardSample, parameters: NumericParameters) -> float:
    """1 when the one number of the answer is within either tolerance of a reference."""
    references: list[float] = []
    for index, text in enumerate(sample.ground_truth.answers or ()):
        try:
            references.append(written_number(text))
        except Unreadable as error:
            raise InvalidField.of(f"ground_truth.answers[{index}]", text, "a text with one number") from error
    said = written_number(answer_text(sample))
    return float(
        any(
            math.isclose(
                said,
                true,
                rel_tol=0.0,
                abs_tol=max(parameters.absolute_tolerance, parameters.relative_tolerance * abs(true)),
            )
            for true in references
        )
    )


NUMERIC = Entry(
    name="numeric",
    formula="1 when the one number in the answer is within absolute_tolerance, or relative_tolerance times the "
    "reference, of a reference, else 0. Units and words around it do not matter; several different numbers are no "
    "answer.",
    source="VLM-R1 (float equality), ChartQA's relaxed accuracy (relative_tolerance 0.05)",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(Label.ANSWERS,),
    parameters=NumericParameters,
    grade=grade,
)
