"""How a rollout is sampled."""

import math
from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Settings of one generation.

    temperature: 0 is greedy (argmax); else 0.01..4.
    top_p: nucleus mass of text tokens, (0, 1]; 1 keeps the whole distribution. Bins are never truncated.
    max_tokens: most text tokens (query, caption) or token positions (detect counts 3 an object, point 2), 1..2048.
    max_objects: most objects of point and detect, 1..300.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    max_objects: int = 50

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming the field below `field`, for the first value out of range."""
        if not (math.isfinite(self.temperature) and (self.temperature == 0.0 or 0.01 <= self.temperature <= 4.0)):
            raise InvalidField.of(f"{field}.temperature", self.temperature, "0 (greedy) or 0.01 to 4")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidField.of(f"{field}.top_p", self.top_p, "more than 0 and at most 1")
        if not 1 <= self.max_tokens <= 2048:
            raise InvalidField.of(f"{field}.max_tokens", self.max_tokens, "1 to 2048")
        if not 1 <= self.max_objects <= 300:
            raise InvalidField.of(f"{field}.max_objects", self.max_objects, "1 to 300")


def rollout_defaults(skill: Skill) -> SamplingSettings:
    """Defaults of rollouts (DESIGN section 8): temperature 1, top_p 1, 128 tokens (detect 256), 50 objects."""
    return SamplingSettings(max_tokens=256 if skill is Skill.DETECT else 128)


def inference_defaults(skill: Skill) -> SamplingSettings:
    """Defaults of inference: point and detect greedy; query and caption at 0.2 and nucleus 0.9, 768 tokens."""
    if skill in (Skill.POINT, Skill.DETECT):
        return SamplingSettings(temperature=0.0, max_tokens=1024)
    return SamplingSettings(temperature=0.2, top_p=0.9, max_tokens=768)
