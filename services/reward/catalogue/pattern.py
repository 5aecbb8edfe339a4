"""Text answers against a pattern: a regular expression of RE2, whose time is linear in the text."""

from functools import lru_cache
from typing import Protocol, cast

import re2
from pydantic import Field, field_validator

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.text import raw_text

MAX_CHARACTERS = 65_536
MAX_PROGRAM_BYTES = 1 << 20


class _Pattern(Protocol):
    def fullmatch(self, text: str) -> object: ...
    def search(self, text: str) -> object: ...


@lru_cache(maxsize=256)
def _compiled(pattern: str, ignore_case: bool) -> _Pattern:
    options = re2.Options()
    options.max_mem, options.log_errors, options.case_sensitive = MAX_PROGRAM_BYTES, False, not ignore_case
    return cast("_Pattern", re2.compile(pattern, options=options))


class RegexParameters(Parameters):
    """The pattern, and how it is applied."""

    pattern: str = Field(r".*\S.*", max_length=1000, description="regular expression in RE2's syntax")
    whole: bool = Field(True, description="match the whole text, not any part of it")
    ignore_case: bool = Field(False, description="whether case does not count")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            _compiled(pattern, False)
        except re2.error as error:  # pyright: ignore[reportUnknownVariableType]  (re2 has no types)
            raise ValueError(f"a pattern in RE2's syntax without back references or look-around ({error})") from error
        return pattern


def grade(sample: RewardSample, parameters: RegexParameters) -> float:
    """1 for a match."""
    pattern, text = _compiled(parameters.pattern, parameters.ignore_case), raw_text(sample)[:MAX_CHARACTERS]
    return float((pattern.fullmatch(text) if parameters.whole else pattern.search(text)) is not None)


REGEX = Entry(
    name="regex",
    formula="1 when pattern matches the answer (all of it with whole, else any part), else 0; tags are left in.",
    source="RE2 (Cox 2010): no pattern and no text can take more than linear time",
    beware="it sees form only and pays the shortest text that fits: use it as a gate",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(),
    parameters=RegexParameters,
    grade=grade,
)
