"""Length and repetition: penalties, at most 0."""

from typing import Self

from pydantic import Field, model_validator

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry
from services.reward.catalogue.parameters import Parameters, Whole
from services.reward.reading.text import whole_text

MAX_CHARACTERS = 65_536


class OverlongParameters(Parameters):
    """The length that is too long, and where the slope to it begins."""

    max_tokens: Whole = Field(512, ge=1, le=100_000, description="length from which the penalty is -1")
    slope_tokens: Whole = Field(128, ge=1, le=100_000, description="length of the slope before max_tokens")

    @model_validator(mode="after")
    def _slope_fits(self) -> Self:
        if self.slope_tokens > self.max_tokens:
            raise ValueError(f"slope_tokens of at most max_tokens, which is {self.max_tokens}")
        return self


class RepetitionParameters(Parameters):
    """What is compared."""

    words: Whole = Field(4, ge=1, le=50, description="length of the runs of words that shall not come again")


def soft_overlong(sample: RewardSample, parameters: OverlongParameters) -> float:
    """0 up to max_tokens - slope_tokens, then falling to -1 at max_tokens."""
    over = (sample.token_count or 0) - (parameters.max_tokens - parameters.slope_tokens)
    return -min(1.0, max(0.0, over / parameters.slope_tokens))


def repetition(sample: RewardSample, parameters: RepetitionParameters) -> float:
    """-(1 - different runs / runs) of n words."""
    words = whole_text(sample)[:MAX_CHARACTERS].casefold().split()
    runs = [tuple(words[at : at + parameters.words]) for at in range(len(words) - parameters.words + 1)]
    return len(set(runs)) / len(runs) - 1.0 if runs else 0.0


SOFT_OVERLONG = Entry(
    name="soft_overlong",
    formula="0 up to max_tokens - slope_tokens, then linearly down to -1 at max_tokens and beyond; tokens as the "
    "policy decided them, thinking included.",
    source="DAPO (soft overlong punishment), ms-swift. VLM-R1's cosine is periodic: 2048 tokens are paid as none",
    beware="alone it pays silence",
    skills=(Skill.QUERY, Skill.POINT, Skill.DETECT, Skill.CAPTION),
    labels=(),
    parameters=OverlongParameters,
    grade=soft_overlong,
    minimum=-1.0,
    maximum=0.0,
    needs_token_count=True,
)

REPETITION = Entry(
    name="repetition",
    formula="(different runs of `words` words) / (runs) - 1, reasoning and answer together; 0 for shorter texts.",
    source="VLM-R1, ms-swift",
    beware="alone it pays silence, and on lists of boxes VLM-R1 saw it cost recall",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(),
    parameters=RepetitionParameters,
    grade=repetition,
    minimum=-1.0,
    maximum=0.0,
)
