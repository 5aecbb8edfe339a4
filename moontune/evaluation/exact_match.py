"""Whether a text answer is one of the right ones, up to case, punctuation, articles and space."""

import re
import unicodedata
from collections.abc import Sequence

MAX_CHARACTERS = 16_384
"""Longer texts are cut before they are compared, so that time stays linear and small."""

_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
_PUNCTUATION = re.compile(r"\.(?!\d)|-(?!\.?\d)|(?<=\w)-|[^\w\s.-]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """Canonical form: NFKC, case folded, punctuation and English articles out, single spaces.

    A decimal point and a minus before a digit stay: 1.5 is not 15 and -3 is not 3; a thousands comma goes.
    A text made only of what would be removed ("a", "?") keeps itself, so that it cannot equal every other such text.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold())
    bare = _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", _THOUSANDS.sub("", folded)))
    return " ".join(bare.split()) or " ".join(folded.split())


def is_exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether the normalised answer equals any normalised reference; an empty answer never does."""
    given = normalise(answer)
    return bool(given) and any(given == normalise(reference) for reference in references)
