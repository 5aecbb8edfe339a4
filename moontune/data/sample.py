"""One labelled example: where its image lies, what is asked, and what is right."""

from dataclasses import dataclass
from pathlib import Path

from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class Sample:
    """An image file with one request and its ground truth.

    image: the file, absolute. sha256: of its bytes, 64 hex digits.
    question: query's text; object: what point and detect look for; reasoning: query thinks first.
    """

    image: Path
    sha256: str
    skill: Skill
    ground_truth: GroundTruth
    question: str = ""
    object: str = ""
    reasoning: bool = False

    def request(self, settings: SamplingSettings) -> SkillRequest:
        """The request with the image's bytes, read now; InvalidField if the file is gone or another than imported."""
        try:
            image = Image.of(self.image.read_bytes())
        except OSError as error:
            raise InvalidField.of("image", str(self.image), f"the file that was imported ({error.strerror})") from error
        if image.sha256 != self.sha256:
            raise InvalidField.of("image", str(self.image), "the file that was imported; its content has changed")
        return SkillRequest(
            skill=self.skill,
            image=image,
            question=self.question,
            object=self.object,
            reasoning=self.reasoning,
            settings=settings,
        )
