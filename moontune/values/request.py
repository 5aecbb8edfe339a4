"""One question to a model about one image."""

from dataclasses import dataclass, field

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.image import Image
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

SpatialRef = Point | Box
CAPTION_LENGTHS = ("short", "normal", "long")


@dataclass(frozen=True, slots=True)
class SkillRequest:
    """What is asked.

    image: absent only for a text-only query.
    question: query's text. object: what point and detect look for. length: caption's, one of CAPTION_LENGTHS.
    spatial_refs: places that the question is about (query and point).
    reasoning: query only; think first, then answer.
    """

    skill: Skill
    image: Image | None = None
    question: str = ""
    object: str = ""
    spatial_refs: tuple[SpatialRef, ...] = ()
    reasoning: bool = False
    length: str = "normal"
    settings: SamplingSettings = field(default_factory=SamplingSettings)

    def validate(self, field: str = "request") -> None:
        """Raise InvalidField for the first field that the skill does not allow. Images are checked where decoded."""
        if self.skill is Skill.QUERY:
            _require_text(f"{field}.question", self.question)
        elif self.skill is Skill.CAPTION:
            if self.length not in CAPTION_LENGTHS:
                raise InvalidField.of(f"{field}.length", self.length, ", ".join(CAPTION_LENGTHS))
        else:
            _require_text(f"{field}.object", self.object)
        if self.image is None and self.skill is not Skill.QUERY:
            raise InvalidField.of(f"{field}.image", None, f"an image; only query works without, not {self.skill}")
        if self.reasoning and self.skill is not Skill.QUERY:
            raise InvalidField.of(f"{field}.reasoning", True, f"false for {self.skill}; only query reasons")
        if self.spatial_refs and self.skill not in (Skill.QUERY, Skill.POINT):
            raise InvalidField.of(f"{field}.spatial_refs", len(self.spatial_refs), f"none for {self.skill}")
        for index, ref in enumerate(self.spatial_refs):
            ref.validate(f"{field}.spatial_refs[{index}]")
        self.settings.validate(f"{field}.settings")


def _require_text(field: str, text: str) -> None:
    if not text.strip():
        raise InvalidField.of(field, text, "text that is not blank")
    if len(text) > 8192:
        raise InvalidField.of(field, f"{len(text)} characters", "at most 8192 characters")
