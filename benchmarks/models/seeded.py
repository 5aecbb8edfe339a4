"""Models of several sizes with seeded random weights."""

from dataclasses import replace

import torch

from moontune.model.config import GoOn, MoondreamConfig
from moontune.model.moondream import Moondream
from moontune.model.presets import MOONDREAM2, MOONDREAM2_05B, MOONDREAM2_TOKENIZER, MOONDREAM3


def sizes(name: str) -> MoondreamConfig:
    """A config of this size. Moondream 2's goes on as its public code does, so that both do the same work."""
    text, vision = MOONDREAM2.text, MOONDREAM2.vision
    small_text = replace(text, dim=512, ff_dim=2048, layers=8, heads=8, kv_heads=8)
    small = replace(
        MOONDREAM2,
        vision=replace(vision, dim=256, ff_dim=1024, heads=4, projection_inner_dim=1024),
        text=small_text,
        region=replace(MOONDREAM2.region, inner_dim=1024),
    )
    moe = MOONDREAM3.text.moe and replace(MOONDREAM3.text.moe, experts=32, inner_dim=256, start_layer=2)
    config = {
        "small": small,
        "0.5b": replace(MOONDREAM2_05B, tokenizer=MOONDREAM2_TOKENIZER),
        "2b": MOONDREAM2,
        "moe": replace(MOONDREAM3, vision=small.vision, text=replace(small_text, tau=True, rope_theta=1.5e6, moe=moe)),
    }[name]
    go_on = GoOn.COORD if config.text.tau else GoOn.ANY_TOKEN
    return replace(config, name=f"benchmark-{name}", tokenizer=replace(config.tokenizer, go_on=go_on))


def seeded(config: MoondreamConfig, device: str, dtype: torch.dtype) -> Moondream:
    """Random weights that keep activations in a sane range; not trained, so answers mean nothing."""
    with torch.device("meta"):
        model = Moondream(config)
    model.to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        std = 1.0 if name.endswith(("_features", "wte")) else parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.0
        parameter.data.normal_(0.0, 1.0, generator=generator).mul_(std)
        if ".ln" in name or "post_ln" in name:
            parameter.data.add_(1.0 if name.endswith("weight") else 0.0)
    model.requires_grad_(False)
    return model.to(dtype)
