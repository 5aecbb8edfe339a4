"""Paths through the network that must agree, and masks that must hold."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moontune.imaging.crops import CropLayout, cut_crops
from moontune.model import inputs
from moontune.model.base_model import BaseModel
from moontune.model.decisions import Input, InputKind
from moontune.model.kv_cache import stack
from moontune.model.prompt import Prompt
from tests.fakes.tiny_base import CONFIG, tiny_base

FED = [Input(InputKind.TOKEN, 40), Input(InputKind.COORD, 700), Input(InputKind.SIZE, 800, 300)]
PROMPTS = [Prompt((1, 2, 30, 31, 3)), Prompt((1, 3)), Prompt((1, 2, 33, 3))]


@pytest.fixture(scope="module", params=[3, 1], ids=["full heads", "grouped heads"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(Path(tmp_path_factory.mktemp("base")), seed=3, kv_heads=request.param)


def images(model: BaseModel) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    shape = (model.config.vision.tokens, model.config.text.dim)
    return [torch.randn(shape, generator=generator), None, torch.randn(shape, generator=generator)]


def whole(model: BaseModel, image: torch.Tensor | None, prompt: Prompt) -> torch.Tensor:
    """Hidden states [T, D] of prefix, prompt and FED, in one pass without a cache."""
    parts = (inputs.embed_prefix(model.module, image), inputs.embed_prompt(model.module, prompt))
    embeds = torch.cat((*parts, inputs.embed_inputs(model.module, FED)))
    segments = [0] * len(parts[0]) + [1] * len(parts[1]) + [2] * len(FED)
    mask = inputs.segment_mask(torch.tensor([segments]))
    return model.module.hidden(embeds[None], torch.arange(len(embeds))[None], mask)[0]


@torch.no_grad()
def test_cache_in_a_ragged_batch_equals_the_full_pass(model: BaseModel) -> None:
    ready = inputs.prefill(model.module, images(model), PROMPTS)
    steps = [ready.hidden_BD]
    for index, item in enumerate(FED):
        embeds = inputs.embed_inputs(model.module, [item] * 3)[:, None]
        steps.append(model.module.hidden(embeds, ready.positions_B[:, None] + index, cache=ready.cache)[:, 0])
    for row, (image, prompt) in enumerate(zip(images(model), PROMPTS, strict=True)):
        full = whole(model, image, prompt)[-4:]
        torch.testing.assert_close(torch.stack([step[row] for step in steps]), full, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_forked_stacked_and_selected_rows_decode_as_their_source(model: BaseModel) -> None:
    singles = [
        inputs.prefill(model.module, [image], [prompt]) for image, prompt in zip(images(model), PROMPTS, strict=True)
    ]
    cache = stack([single.cache for single in singles], [2, 1, 3], capacity=4)
    positions = torch.cat([single.positions_B for single in singles]).repeat_interleave(torch.tensor([2, 1, 3]))
    keep = torch.tensor([5, 0, 2])
    cache, positions = cache.select(keep), positions[keep]
    for index, item in enumerate(FED):
        embeds = inputs.embed_inputs(model.module, [item] * 3)[:, None]
        hidden = model.module.hidden(embeds, positions[:, None] + index, cache=cache)[:, 0]
    for row, source in enumerate((2, 0, 1)):
        full = whole(model, images(model)[source], PROMPTS[source])[-1]
        torch.testing.assert_close(hidden[row], full, atol=1e-5, rtol=1e-5)
    forked = singles[0].cache.fork(4)
    assert forked.batch == 4
    with pytest.raises(ValueError, match="one row"):
        forked.fork(2)


@torch.no_grad()
def test_several_positions_at_once_continue_a_cache_causally(model: BaseModel) -> None:
    image, prompt = images(model)[0], PROMPTS[0]
    ready = inputs.prefill(model.module, [image], [prompt])
    embeds = inputs.embed_inputs(model.module, FED)[None]
    positions = ready.positions_B[:, None] + torch.arange(3)
    hidden = model.module.hidden(embeds, positions, cache=ready.cache)[0]
    torch.testing.assert_close(hidden, whole(model, image, prompt)[-3:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_prefix_sees_itself_both_ways_and_never_the_prompt(model: BaseModel) -> None:
    image = images(model)[0]
    assert image is not None
    before = whole(model, image, PROMPTS[0])
    other = whole(model, image, Prompt((1, 2, 90, 91, 3)))
    prefix = model.config.prefix_length
    torch.testing.assert_close(before[:prefix], other[:prefix], atol=1e-5, rtol=1e-5)
    assert (before[prefix + 2] - other[prefix + 2]).abs().max() > 0.01
    changed = image.clone()
    changed[-1] *= -1.0  # a shift would vanish in the norm
    assert (whole(model, changed, PROMPTS[0])[0] - before[0]).abs().max() > 1e-3, "BOS sees the last image token"


@torch.no_grad()
def test_positions_are_relative_in_effect_and_matter(model: BaseModel) -> None:
    embeds = inputs.embed_inputs(model.module, FED)[None]
    positions = torch.arange(3)[None]
    plain = model.module.hidden(embeds, positions)
    torch.testing.assert_close(model.module.hidden(embeds, positions + 100), plain, atol=1e-4, rtol=1e-4)
    assert (model.module.hidden(embeds, positions * 3) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_go_logits_are_two_rows_of_the_language_head(model: BaseModel) -> None:
    hidden = torch.randn(2, 3, CONFIG.text.dim, generator=torch.Generator().manual_seed(0))
    logits = model.module.token_logits(hidden)
    torch.testing.assert_close(model.module.go_logits(hidden), logits[..., [0, 5]], atol=1e-5, rtol=1e-5)
    assert model.module.size_logits(hidden).shape == (2, 3, 2, 1024)


@torch.no_grad()
def test_tiles_are_stitched_where_they_belong(model: BaseModel) -> None:
    """Features that hold their own place come back in place, once, whatever the tiling."""
    vision = model.module.vision
    grid, margin = vision.config.grid, vision.config.overlap_margin
    window = grid - 2 * margin
    rows, columns = 2, 2
    side = rows * window + 2 * margin
    place = torch.arange(side * side, dtype=torch.float32).view(side, side, 1)
    tiles = [
        place[r * window : r * window + grid, c * window : c * window + grid]
        for r in range(rows)
        for c in range(columns)
    ]
    stitched = vision.stitch(torch.stack(tiles).flatten(1, 2), (rows, columns))
    pooled = torch.nn.functional.adaptive_avg_pool2d(place.permute(2, 0, 1), (grid, grid)).flatten(1).transpose(0, 1)
    torch.testing.assert_close(stitched[0], pooled)


@torch.no_grad()
def test_an_image_of_one_tile_is_encoded_once_and_counts_twice(model: BaseModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    small = cut_crops(pixels, CropLayout(32, 8, 4))
    assert len(small.pixels) == 1
    embeds = model.module.encode_image(small)
    features = model.module.encode_crops(torch.from_numpy(pixels / 127.5 - 1.0).float().permute(2, 0, 1)[None])
    torch.testing.assert_close(embeds, model.module.project(features, features)[0], atol=1e-4, rtol=1e-4)
    large = cut_crops(np.random.default_rng(0).integers(0, 256, (90, 64, 3), dtype=np.uint8), CropLayout(32, 8, 4))
    assert model.module.encode_image(large).shape == embeds.shape


def test_half_precision_body_keeps_its_heads_in_fp32(tmp_path: Path) -> None:
    model = tiny_base(tmp_path).module.cast_body(torch.bfloat16)
    with torch.no_grad():
        hidden = model.hidden(model.embed_tokens(torch.tensor([[1, 2, 3]])), torch.arange(3)[None])
    assert hidden.dtype == torch.bfloat16
    for logits in (model.token_logits(hidden), model.go_logits(hidden), model.coord_logits(hidden)):
        assert logits.dtype == torch.float32
    assert model.text.lm_head.weight.dtype == torch.float32
