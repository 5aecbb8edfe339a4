"""Text answers against references, any of which is right. Texts are cut at 16384 characters: time stays linear."""

from collections import Counter

from moontune.evaluation.exact_match import is_exact_match, normalise
from moontune.values.output import CaptionOutput, QueryOutput
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label, NumberParameter, Parameters


def answer_text(sample: RewardSample) -> str:
    """The answer or caption; "" for outputs without text. Reasoning is not part of the answer."""
    if isinstance(sample.output, QueryOutput):
        return sample.output.answer
    return sample.output.caption if isinstance(sample.output, CaptionOutput) else ""


def exact(sample: RewardSample, parameters: Parameters) -> float:
    """1 when the normalised answer equals a normalised reference."""
    return float(is_exact_match(answer_text(sample), sample.ground_truth.answers or ()))


def contains(sample: RewardSample, parameters: Parameters) -> float:
    """1 when the words of a reference stand in the answer, in order and together, with few words around them."""
    words = normalise(answer_text(sample)).split()
    for reference in sample.ground_truth.answers or ():
        wanted = normalise(reference).split()
        if not wanted or len(words) > len(wanted) + parameters["max_extra_words"]:
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
    description=f"1 when the answer equals one of the references {_NORMAL}, else 0. Default of query.",
    skills=_TEXT,
    label=Label.ANSWERS,
    grade=exact,
)

CONTAINS = Entry(
    name="contains",
    description=f"1 when the words of a reference stand together in the answer {_NORMAL}, with at most max_extra_words "
    "other words; else 0. A policy can learn to list every answer it knows within that allowance: keep it small.",
    skills=_TEXT,
    label=Label.ANSWERS,
    grade=contains,
    parameters=(NumberParameter("max_extra_words", 4.0, 0.0, 1000.0, "words allowed beside the reference"),),
)

TOKEN_F1 = Entry(
    name="token_f1",
    description=f"2 common / (words in answer + words in reference) {_NORMAL}; the best over the references.",
    skills=_TEXT,
    label=Label.ANSWERS,
    grade=token_f1,
)
