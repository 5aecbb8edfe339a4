"""Text answers by edit distance, for transcriptions (OCR)."""

import unicodedata

from pydantic import Field
from rapidfuzz.distance import Levenshtein

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.text import answer_text

MAX_CHARACTERS = 4_096
"""Longer texts are cut: the distance takes time with the product of the lengths (64 characters a step)."""


class EditParameters(Parameters):
    """What counts as different."""

    case_sensitive: bool = Field(False, description="whether case counts")


class AnlsParameters(EditParameters):
    """Where credit begins."""

    threshold: float = Field(0.5, ge=0.0, le=1.0, description="similarity below this earns 0")


def similarity(sample: RewardSample, parameters: EditParameters) -> float:
    """1 - Levenshtein distance over the longer length; the best over the references."""
    answer = _plain(answer_text(sample), parameters)
    references = [_plain(reference, parameters) for reference in sample.ground_truth.answers or ()]
    if not answer:
        return 0.0
    return max((Levenshtein.normalized_similarity(answer, reference) for reference in references), default=0.0)


def anls(sample: RewardSample, parameters: AnlsParameters) -> float:
    """The similarity, 0 below the threshold."""
    value = similarity(sample, parameters)
    return value if value >= parameters.threshold else 0.0


def _plain(text: str, parameters: EditParameters) -> str:
    shown = " ".join(unicodedata.normalize("NFC", text[:MAX_CHARACTERS]).split())
    return shown if parameters.case_sensitive else shown.casefold()[:MAX_CHARACTERS]


EDIT_SIMILARITY = Entry(
    name="edit_similarity",
    formula="1 - Levenshtein(answer, reference) / max length, spaces collapsed; the best over the references.",
    source="Perception-R1 (OCR)",
    beware="digits that look alike earn credit: use numeric for numbers",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(Label.ANSWERS,),
    parameters=EditParameters,
    grade=similarity,
)

ANLS = Entry(
    name="anls",
    formula="edit_similarity where it is at least threshold, else 0; the best over the references.",
    source="Biten et al. 2019 (ST-VQA), DocVQA",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(Label.ANSWERS,),
    parameters=AnlsParameters,
    grade=anls,
)
