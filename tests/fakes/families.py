"""Small seeded bases of every family, by the name of what is special about them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from moontune.model.base_model import load_base
from moontune.model.config import GoOn, MoeConfig, MoondreamConfig
from moontune.model.family import Family
from moontune.model.moondream_family import MoondreamFamily
from tests.fakes.tiny_base import CONFIG, write_tiny_base

MOONDREAM2 = replace(
    CONFIG,
    name="tiny-moondream2",
    tokenizer=replace(CONFIG.tokenizer, query=replace(CONFIG.tokenizer.query, suffix=(3, 3)), reasoning_suffix=(3, 4)),
)
GROUPED = replace(CONFIG, name="tiny-grouped-heads", text=replace(CONFIG.text, kv_heads=1))
WORDS = replace(
    CONFIG,
    name="tiny-gpt2-templates",
    tokenizer=replace(
        CONFIG.tokenizer, reasoning_suffix=(), question_text=" {question}", go_on=GoOn.ANY_TOKEN, answer_id=260
    ),
)
MOONDREAM3 = replace(
    CONFIG,
    name="tiny-moondream3",
    text=replace(
        CONFIG.text,
        layers=3,
        rope_theta=1_500_000.0,
        tau=True,
        moe=MoeConfig(experts=8, experts_per_token=2, inner_dim=16, start_layer=1),
    ),
    region=replace(CONFIG.region, inner_dim=None),
)
MOONDREAM3_NORMED = replace(MOONDREAM3, name="tiny-moondream3-normed", region=replace(MOONDREAM3.region, norm=True))


def _seeded(config: MoondreamConfig) -> Callable[[Path], Family]:
    def build(folder: Path) -> Family:
        base = load_base(str(write_tiny_base(folder, seed=5, config=config)), device="cpu")
        return MoondreamFamily(base.module, base.tokenizer)

    return build


def _shipped(folder: Path) -> Family:
    del folder
    base = load_base("moontune-tiny", device="cpu")
    return MoondreamFamily(base.module, base.tokenizer)


FAMILIES: Mapping[str, Callable[[Path], Family]] = {
    **{config.name: _seeded(config) for config in (MOONDREAM2, GROUPED, WORDS, MOONDREAM3, MOONDREAM3_NORMED)},
    "moontune-tiny": _shipped,
}
"""Builders: each writes a base into an empty folder and loads it from there."""
