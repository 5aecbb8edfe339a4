import pytest
import torch

from moontune.errors import InvalidField
from moontune.model.base_model import BaseModel
from moontune.model.inputs import embed_prompt
from moontune.model.prompt import build_prompt
from moontune.values.geometry import Box, Point
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.skill import Skill

IMAGE = Image("0" * 64)


def spelt(base: BaseModel, text: str) -> list[int]:
    return base.tokenizer.encode(text)


def test_templates(base: BaseModel) -> None:
    def ids(request: SkillRequest) -> list[int]:
        return list(build_prompt(request, base.config, base.tokenizer).ids)

    assert ids(SkillRequest(Skill.QUERY, IMAGE, question="why?")) == [1, 2, *spelt(base, "why?"), 3]
    assert ids(SkillRequest(Skill.QUERY, IMAGE, question="why?", reasoning=True)) == [1, 2, *spelt(base, "why?"), 4]
    assert ids(SkillRequest(Skill.DETECT, IMAGE, object="cat")) == [1, 8, 2, *spelt(base, " cat"), 3]
    assert ids(SkillRequest(Skill.POINT, IMAGE, object="cat")) == [1, 5, 2, *spelt(base, " cat"), 3]
    assert ids(SkillRequest(Skill.CAPTION, IMAGE, length="long")) == [1, 1, 3]


def test_places_stand_before_the_question_and_replace_their_markers(base: BaseModel) -> None:
    refs = (Point(0.25, 0.5), Box(0.1, 0.2, 0.5, 0.8))
    prompt = build_prompt(
        SkillRequest(Skill.QUERY, IMAGE, question="x", spatial_refs=refs), base.config, base.tokenizer
    )
    assert list(prompt.ids) == [1, 2, 5, 5, 5, 5, 6, *spelt(base, "x"), 3]
    assert [index for index, _ in prompt.coords] == [2, 3, 4, 5]
    assert [value for _, value in prompt.coords] == pytest.approx([0.25, 0.5, 0.3, 0.5])
    ((at, size),) = prompt.sizes
    assert (at, *size) == pytest.approx((6, 0.4, 0.6))
    with torch.no_grad():
        embeds = embed_prompt(base.module, prompt)
        torch.testing.assert_close(embeds[2], base.module.embed_coords(torch.tensor(0.25)))
        torch.testing.assert_close(embeds[6], base.module.embed_sizes(torch.tensor([0.4, 0.6])))
        assert torch.equal(embeds[0], base.module.text.wte[1])


def test_a_prompt_must_leave_room_in_the_context(base: BaseModel) -> None:
    with pytest.raises(InvalidField, match=r"request\.object is '305 tokens .*at most 238 tokens"):
        build_prompt(SkillRequest(Skill.DETECT, IMAGE, object="x" * 300), base.config, base.tokenizer)
