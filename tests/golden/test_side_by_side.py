"""Ours and a public implementation side by side on random images of 20 aspect ratios, same seeded weights, fp32.

Skipped unless MOONTUNE_PUBLIC_MOONDREAM gives the path of a checkout, or several joined by the path separator.
"""

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moontune.imaging.decode import decode_image
from moontune.model.config import GoOn, MoondreamConfig
from moontune.model.conventions import UPSTREAM
from moontune.model.moondream import Moondream, normalise
from moontune.model.moondream_family import MoondreamFamily
from moontune.model.presets import MOONDREAM2, MOONDREAM3
from moontune.model.single import generate
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tests.fakes.tiny_base import seeded_state
from tools.check_golden.outputs import as_upstream
from tools.check_golden.stub_tokenizer import StubTokenizer
from tools.public_moondream import PublicMoondream, generation_of, load_public

CHECKOUTS = [Path(given) for given in os.environ.get("MOONTUNE_PUBLIC_MOONDREAM", "").split(os.pathsep) if given]
ASPECTS = [2.0 ** (power / 3) for power in range(-9, 11)]
"""Width by height, 1:8 to 10:1."""
IMAGE = Image("0" * 64)
GREEDY = SamplingSettings(temperature=0.0, max_tokens=8)
OBJECTS = SamplingSettings(temperature=0.0, max_tokens=9, max_objects=3)

pytestmark = [
    pytest.mark.skipif(
        not CHECKOUTS, reason="set MOONTUNE_PUBLIC_MOONDREAM to a checkout of a public Moondream to run beside it"
    ),
    pytest.mark.filterwarnings("ignore"),  # of code that is not ours
]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models of the same weights."""

    ours: MoondreamFamily
    theirs: PublicMoondream


def small(preset: MoondreamConfig) -> MoondreamConfig:
    """A preset shrunk: the public code fixes the head's width at 64 and the vision tower's layers at 27."""
    moe = preset.text.moe and replace(preset.text.moe, experts=8, experts_per_token=3, inner_dim=48, start_layer=1)
    region = replace(preset.region, coord_feature_dim=32, size_feature_dim=64)
    return replace(
        preset,
        vision=replace(preset.vision, dim=32, ff_dim=64, heads=2, projection_inner_dim=64),
        text=replace(preset.text, dim=192, ff_dim=256, layers=3, heads=3, kv_heads=3, moe=moe),
        region=region if region.inner_dim is None else replace(region, inner_dim=80),
        tokenizer=replace(preset.tokenizer, go_on=GoOn.COORD if moe else GoOn.ANY_TOKEN),
    )


@pytest.fixture(scope="module", params=CHECKOUTS, ids=lambda path: path.name)
def pair(request: pytest.FixtureRequest) -> Pair:
    config = small(MOONDREAM2 if generation_of(request.param) == "moondream2" else MOONDREAM3)
    state = seeded_state(config, seed=12, scale=1.6)
    with torch.device("meta"):
        model = Moondream(config)
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
    tokenizer = StubTokenizer()
    return Pair(MoondreamFamily(model, tokenizer), load_public(request.param, config, state, tokenizer))


def picture(index: int) -> bytes:
    """Smooth waves and noise, a quarter of a megapixel to two, as PNG."""
    dice = np.random.default_rng(index)
    area = dice.uniform(60_000, 1_500_000)
    height, width = round((area / ASPECTS[index]) ** 0.5), round((area * ASPECTS[index]) ** 0.5)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / dice.uniform(5, 60)) + np.cos(y / dice.uniform(5, 60)) for _ in range(3)]
    pixels = (np.stack(waves, axis=-1) * 55 + 128 + dice.normal(0, 12, (height, width, 3))).clip(0, 255)
    file = io.BytesIO()
    PillowImage.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def same(ours: Any, theirs: Any) -> bool:
    """Equal texts and counts; numbers to 1e-6."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    return bool(np.isclose(ours, theirs, rtol=0, atol=1e-6)) if isinstance(ours, float) else ours == theirs


@pytest.mark.parametrize("index", range(len(ASPECTS)))
def test_an_image(pair: Pair, index: int) -> None:
    data = picture(index)
    image = PillowImage.open(io.BytesIO(data))
    crops = pair.ours.crop(decode_image(data))
    their_crops, their_tiling = pair.theirs.crops(image)
    assert crops.tiling == their_tiling
    pixels = normalise(torch.from_numpy(crops.pixels))
    assert torch.equal(pixels, their_crops[: len(pixels)]), "every pixel of every crop"
    with torch.no_grad():
        (tokens_PD,) = pair.ours.encode_images([crops])
        their_tokens_PD = pair.theirs.model._run_vision_encoder(image)
        held = pair.theirs.model.encode_image(image, pair.theirs.settings())
    assert (tokens_PD - their_tokens_PD).abs().max() <= 1e-4 * their_tokens_PD.abs().max()
    settings, model = pair.theirs.settings(), pair.theirs.model
    asked = {
        SkillRequest(Skill.QUERY, IMAGE, question=f"what {index}?", settings=GREEDY): lambda: model.query(
            held, f"what {index}?", reasoning=False, settings=settings
        ),
        SkillRequest(Skill.QUERY, IMAGE, question="why?", reasoning=True, settings=GREEDY): lambda: model.query(
            held, "why?", reasoning=True, settings=settings
        ),
        SkillRequest(Skill.CAPTION, IMAGE, settings=GREEDY): lambda: model.caption(held, settings=settings),
        SkillRequest(Skill.DETECT, IMAGE, object="thing", settings=OBJECTS): lambda: model.detect(
            held, "thing", settings=settings
        ),
        SkillRequest(Skill.POINT, IMAGE, object="a thing", settings=OBJECTS): lambda: model.point(
            held, "a thing", settings=settings
        ),
    }
    for request, theirs in asked.items():
        made = generate(pair.ours, request, tokens_PD, conventions=UPSTREAM)
        output = pair.ours.read_output(
            request.skill,
            made.decisions,
            reasoning=request.reasoning,
            thinking_count=made.thinking_count,
            conventions=UPSTREAM,
        )
        wanted = theirs()
        assert same(as_upstream(output), wanted), f"{request.skill}: ours {as_upstream(output)}, theirs {wanted}"
