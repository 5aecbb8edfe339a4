"""The one number of a text."""

import re

from services.reward.reading.unreadable import Unreadable

MAX_CHARACTERS = 16_384
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,300}(?:\.\d{1,300})?|\.\d{1,300})(?:[eE][-+]?\d{1,3})?")
_WORD = re.compile(r"[a-z]+")
_NAMES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
WORDS = {name: float(value) for value, name in enumerate(_NAMES)}


def written_number(text: str) -> float:
    """The one number in a text: digits (1,234.5; -3; 2e5), or a word up to twenty where there are no digits.

    Raises Unreadable for none, and for several that differ: a list of guesses is no answer.
    """
    text = text[:MAX_CHARACTERS].replace("\u2212", "-")
    found = {float(match) for match in _NUMBER.findall(_THOUSANDS.sub("", text))}
    if not found:
        found = {WORDS[word] for word in _WORD.findall(text.casefold()) if word in WORDS}
    if len(found) != 1:
        raise Unreadable("no number in the answer" if not found else f"{len(found)} different numbers in the answer")
    return found.pop()
