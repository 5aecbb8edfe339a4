"""Draws follow the heads' distributions, and the two draws of one step are independent."""

from collections.abc import Callable

import torch

from moontune.engine.engine import Engine
from moontune.engine.order import GenerationOrder
from moontune.imaging.crops import CropLayout, cut_crops
from moontune.imaging.decode import decode_image
from moontune.model.base_model import BaseModel
from moontune.model.prompt import build_prompt
from moontune.model.scoring import ScoringGroup, ScoringRollout, score_groups
from moontune.values.rollout import Head
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask


def test_choices_fall_evenly_over_their_distribution(
    engine: Engine, base: BaseModel, make_order: Callable[..., GenerationOrder]
) -> None:
    """The distribution function at a choice (half of the choice's own mass) has mean 1/2 whatever the distribution."""
    request = ask(Skill.DETECT, max_objects=1, temperature=1.5)
    orders = [make_order(request, 64, seed) for seed in range(12)]
    rollouts = [r for answer in engine.generate_all([(Caller(), o) for o in orders]) for r in answer.group.rollouts]
    assert request.image is not None
    assert request.image.data is not None
    vision = base.config.vision
    layout = CropLayout(vision.crop_size, vision.overlap_margin * vision.patch_size, vision.max_crops)
    tokens = base.module.encode_image(cut_crops(decode_image(request.image.data), layout))
    prompt = build_prompt(request, base.config, base.tokenizer)
    group = ScoringGroup(Skill.DETECT, prompt, tuple(ScoringRollout.of(rollout) for rollout in rollouts), tokens)
    with torch.no_grad():
        scored = score_groups(base.module, [group], distributions=True)
    choices = torch.tensor([each.choice for rollout in rollouts for each in rollout.decisions])
    places: dict[Head, torch.Tensor] = {}
    for head in (Head.GO, Head.X, Head.Y, Head.WIDTH, Head.HEIGHT):
        at, log_probs = scored.distributions[head]
        chosen, probs = choices[at].unsqueeze(-1), log_probs.exp()
        places[head] = (probs.cumsum(-1).gather(-1, chosen) - probs.gather(-1, chosen) / 2).squeeze(-1)
        spread = 0.3 / len(at) ** 0.5  # a uniform variable's deviation is 0.289
        assert abs(places[head].mean() - 0.5) < 4 * spread, head
    assert len(places[Head.X]) > 300
    pairs = torch.stack((places[Head.WIDTH], places[Head.HEIGHT]))
    assert abs(torch.corrcoef(pairs)[0, 1]) < 4 / pairs.shape[1] ** 0.5
