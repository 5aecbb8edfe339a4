"""Groups to train on, drawn from a seed: valid decisions on drawn pictures; no record in them is believed."""

import io
import random

from PIL import Image as PillowImage
from PIL import ImageDraw

from moontune.values.image import Image
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import DetectOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head, Rollout
from moontune.values.skill import Skill
from moontune.values.training import RlGroup

NOBODY = PolicyVersion("any", "sha256:" + "0" * 64)


def group(skill: Skill, seed: int, rollouts: int, length: int) -> RlGroup:
    """One picture; `length` is objects of a detection, tokens of an answer."""
    rng = random.Random(seed)
    if skill is Skill.QUERY:
        request = SkillRequest(skill, _picture(rng), question="what colour is the largest object ?")
    else:
        request = SkillRequest(skill, _picture(rng), object="circle")
    made = tuple(_rollout(skill, rng, length) for _ in range(rollouts))
    return RlGroup(request, made, tuple(float(index % 2) for index in range(rollouts)), verified=False)


def groups(skill: Skill, count: int, rollouts: int, length: int) -> list[RlGroup]:
    """`count` groups, each with a picture of its own."""
    return [group(skill, seed, rollouts, length) for seed in range(count)]


def _rollout(skill: Skill, rng: random.Random, length: int) -> Rollout:
    taken: list[Decision] = []
    if skill is Skill.QUERY:
        taken = [Decision(Head.TOKEN, rng.randrange(20, 60), -1.0) for _ in range(length - 1)]
        taken.append(Decision(Head.TOKEN, 0, -1.0))
    else:
        for _ in range(length):
            numbers = (Head.X, Head.Y, Head.WIDTH, Head.HEIGHT)
            taken += [Decision(Head.GO, 1, -1.0), *(Decision(head, rng.randrange(1024), -1.0) for head in numbers)]
        taken.append(Decision(Head.GO, 0, -1.0))
    output = QueryOutput("x") if skill is Skill.QUERY else DetectOutput(())
    return Rollout(skill, output, tuple(taken), FinishReason.STOP, NOBODY, 0, 1.0)


def _picture(rng: random.Random, side: int = 64) -> Image:
    picture = PillowImage.new("RGB", (side, side), (120, 120, 120))
    for _ in range(3):
        x, y = rng.randrange(side), rng.randrange(side)
        ImageDraw.Draw(picture).ellipse((x - 8, y - 8, x + 8, y + 8), fill=tuple(rng.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Image.of(file.getvalue())
