"""Closed answers: a letter, yes or no, or one of the known classes."""

import re
from functools import lru_cache

from pydantic import Field

from moontune.errors import InvalidField
from moontune.evaluation.exact_match import normalise
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.text import answer_text
from services.reward.reading.unreadable import Unreadable

MAX_CHARACTERS = 16_384
_ALONE = re.compile(r"\(?([A-Za-z])\)?[.:)]?")
_MARKED = re.compile(r"\(([A-Z])\)|(?:^|\s)([A-Z])[.:)](?=\s|$)")
_STATED = re.compile(r"\b(?:answer|option|choice)(?: is)?:? {1,3}\(?([A-Z])\b")
_WORD = re.compile(r"[a-z]+")


class ClassParameters(Parameters):
    """The closed list."""

    classes: str = Field(
        "",
        max_length=20_000,
        description="every class, one a line, aliases after |; empty: only the references are known",
    )


def multiple_choice(sample: RewardSample, parameters: Parameters) -> float:
    """1 for the right letter."""
    right = {_letter_of(text, f"ground_truth.answers[{i}]") for i, text in enumerate(sample.ground_truth.answers or ())}
    return float(written_letter(answer_text(sample)) in right)


def written_letter(text: str) -> str:
    """The one letter that a text chooses: alone, marked as `(B)` or `B.`, or stated as `answer is B`."""
    text = text[:MAX_CHARACTERS].strip()
    alone = _ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    stated = set(_STATED.findall(text)) or {first or second for first, second in _MARKED.findall(text)}
    if len(stated) != 1:
        raise Unreadable("no letter is chosen" if not stated else f"{len(stated)} letters are chosen")
    return stated.pop()


def yes_no(sample: RewardSample, parameters: Parameters) -> float:
    """1 for the right one of yes and no."""
    right: set[str] = set()
    for index, text in enumerate(sample.ground_truth.answers or ()):
        try:
            right.add(written_yes_no(text))
        except Unreadable as error:
            raise InvalidField.of(f"ground_truth.answers[{index}]", text, "yes or no") from error
    return float(written_yes_no(answer_text(sample)) in right)


def written_yes_no(text: str) -> str:
    """Which of yes and no stands in a text; Unreadable for neither or both."""
    found = {"yes", "no"}.intersection(_WORD.findall(text[:MAX_CHARACTERS].casefold()))
    if len(found) != 1:
        raise Unreadable("both yes and no in the answer" if found else "neither yes nor no in the answer")
    return found.pop()


def class_name(sample: RewardSample, parameters: ClassParameters) -> float:
    """1 when answer and a reference name the same class."""
    answer, references = normalise(answer_text(sample)), sample.ground_truth.answers or ()
    known = _aliases(parameters.classes)
    right = {known.get(normalise(reference), normalise(reference)) for reference in references}
    said = known.get(answer, answer)
    if said not in right and said not in known.values():
        raise Unreadable("the answer is not a class of the list")
    return float(bool(answer) and said in right)


@lru_cache(maxsize=64)
def _aliases(classes: str) -> dict[str, str]:
    """Normalised name or alias -> normalised class."""
    found: dict[str, str] = {}
    for line in classes.splitlines():
        names = [normalise(name) for name in line.split("|") if normalise(name)]
        found |= dict.fromkeys(names, names[0]) if names else {}
    return found


def _letter_of(text: str, field: str) -> str:
    try:
        return written_letter(text)
    except Unreadable as error:
        raise InvalidField.of(field, text, "a letter, alone or marked as (B) or B.") from error


_TEXT, _ANSWERS = (Skill.QUERY, Skill.CAPTION), (Label.ANSWERS,)

MULTIPLE_CHOICE = Entry(
    name="multiple_choice",
    formula="1 when the one letter that the answer chooses (alone, `(B)`, `B.`, `answer is B`) is the reference's, "
    "else 0; several letters are no answer.",
    source="VLM-R1 (mcq), VisualThinker",
    beware="a guess earns one over the number of choices: groups have signal even where nothing is seen",
    skills=_TEXT,
    labels=_ANSWERS,
    parameters=Parameters,
    grade=multiple_choice,
)

YES_NO = Entry(
    name="yes_no",
    formula="1 when the answer has the reference's one of the words yes and no, and not the other, else 0.",
    source="VLM-R1 (yes_no), whose empty answers were equal to each other and paid",
    beware="half of all guesses are right: balance the samples",
    skills=_TEXT,
    labels=_ANSWERS,
    parameters=Parameters,
    grade=yes_no,
)

CLASS_NAME = Entry(
    name="class_name",
    formula="1 when the answer is the reference's class, or an alias of it in classes, after normalisation as in "
    "exact_match, else 0; what is not in the closed list is no answer.",
    source="Visual-RFT's classification reward, without its substring match",
    skills=_TEXT,
    labels=_ANSWERS,
    parameters=ClassParameters,
    grade=class_name,
)
