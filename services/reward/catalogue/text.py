"""Text answers against references, any of which is right. Texts are cut at 16384 characters: time stays linear."""

from collections import Counter

from pydantic import Field

from moontune.evaluation.exact_match import is_exact_match, normalise
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters, Whole
from services.reward.reading.text import answer_text


class ContainsParameters(Parameters):
    """How much may stand around the reference."""

    max_extra_words: Whole = Field(4, ge=0, le=1000, description="words allowed beside the reference")


def exact(sample: RewardSample, parameters: Parameters) -> float:
    """1 when the normalised answer equals a normalised reference."""
    return float(is_exact_match(answer_text(sample), sample.ground_truth.answers or ()))


def contains(sample: RewardSample, parameters: ContainsParameters) -> float:
    """1 when the words of a reference stand in the answer, in order and together, with few words around them."""
    words = normalise(answer_text(sample)).split()
    for reference in sample.ground_truth.answers or ():
        wanted = normalise(reference).split()
        if not wanted or len(words) > len(wanted) + parameters.max_extra_words:
            continue
        if any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1)):
            return 1.0
    return 0.0


def token_f1(sample: RewardSample, parameters: Parameters) -> float:
    """Best F1 of word multisets over the references."""
    words = Counter(normalise(answer_text(sample)).split())
    best = 0.0
    for reference in sample.ground_truth.answers or ():
        wanted = Counter(normalise(reference).split())
        common = (words & wanted).total()
        if common:
            best = max(best, 2.0 * common / (words.total() + wanted.total()))
    return best


_TEXT = (Skill.QUERY, Skill.CAPTION)
_NORMAL = "after NFKC, case folding and removal of punctuation and English articles"

EXACT_MATCH = Entry(
    name="exact_match",
    formula=f"1 when the answer equals one of the references (aliases) {_NORMAL}, else 0. Default of query.",
    source="SQuAD's exact match; Visual-ARFT, VLM-R1 (all_match)",
    skills=_TEXT,
    labels=(Label.ANSWERS,),
    parameters=Parameters,
    grade=exact,
)

CONTAINS = Entry(
    name="contains",
    formula=f"1 when the words of a reference stand together in the answer {_NORMAL}, with at most max_extra_words "
    "other words, else 0.",
    source="Moondream's query reward, one way only: Visual-RFT's two-way substring pays for single letters",
    beware="a policy can learn to list every answer it knows within max_extra_words: keep it small",
    skills=_TEXT,
    labels=(Label.ANSWERS,),
    parameters=ContainsParameters,
    grade=contains,
)

TOKEN_F1 = Entry(
    name="token_f1",
    formula=f"2 common / (words in answer + words in reference) {_NORMAL}; the best over the references. "
    "Default of caption.",
    source="SQuAD's F1; Visual-ARFT, GUI-R1",
    skills=_TEXT,
    labels=(Label.ANSWERS,),
    parameters=Parameters,
    grade=token_f1,
)
