"""The picture, the questions and the limits, the same for both sides."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image as PillowImage

from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

TOKENS, OBJECTS = 16, 4
QUESTION, OBJECT = "what is in this picture?", "red thing"
ANY = Image("0" * 64)
QUERY = SkillRequest(Skill.QUERY, ANY, question=QUESTION, settings=SamplingSettings(0.0, max_tokens=TOKENS))
DETECT = SkillRequest(
    Skill.DETECT, ANY, object=OBJECT, settings=SamplingSettings(0.0, max_tokens=3 * OBJECTS, max_objects=OBJECTS)
)
Work = Mapping[str, Callable[[], object]]


def picture() -> bytes:
    """640 x 480 pixels of waves and noise, PNG."""
    dice = np.random.default_rng(0)
    y, x = np.mgrid[0:480, 0:640]
    waves = np.stack([np.sin(x / (9 + 5 * c)) + np.cos(y / (13 - 3 * c)) for c in range(3)], axis=-1)
    file = io.BytesIO()
    PillowImage.fromarray((waves * 50 + 128 + dice.normal(0, 9, waves.shape)).clip(0, 255).astype(np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()
