"""A seeded base of the real architecture, small enough to build in a test: random weights, a byte tokenizer.

It proves plumbing (shapes, caches, adapters, log-probabilities), not answers: those need trained weights. It is made
through the same files as a real base and loaded by `load_base`, so nothing is special about it.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from moontune.model.base_model import BaseModel, load_base
from moontune.model.config import (
    CaptionTemplates,
    MoondreamConfig,
    RegionConfig,
    Template,
    TextConfig,
    TokenizerConfig,
    VisionConfig,
)
from moontune.model.moondream import Moondream

SPECIALS = ("<eos>", "<user>", "<sep>", "<answer>", "<think>", "<coord>", "<size>", "<ground>", "<detect>", "<end>")
"""Ids 0..9, then one id for each byte."""

CONFIG = MoondreamConfig(
    name="tiny-fake",
    vision=VisionConfig(
        dim=32,
        ff_dim=64,
        layers=2,
        heads=2,
        patch_size=8,
        crop_size=32,
        max_crops=4,
        overlap_margin=1,
        projection_inner_dim=48,
    ),
    text=TextConfig(dim=48, ff_dim=96, layers=2, heads=3, kv_heads=3, vocab_size=266, max_context=256, rotary_dim=8),
    region=RegionConfig(coord_feature_dim=16, size_feature_dim=32, inner_dim=40),
    tokenizer=TokenizerConfig(
        bos_id=0,
        eos_id=0,
        answer_id=3,
        thinking_id=4,
        coord_id=5,
        size_id=6,
        start_ground_points_id=7,
        end_ground_id=9,
        query=Template((1, 2), (3,)),
        reasoning_suffix=(4,),
        detect=Template((1, 8, 2), (3,)),
        point=Template((1, 5, 2), (3,)),
        caption=CaptionTemplates((1, 3), (1, 2, 3), (1, 1, 3)),
    ),
)
"""head_dim 16 of which 8 rotate; up to 4 local crops; all three heads."""


def write_tiny_base(folder: Path, seed: int = 0, config: MoondreamConfig = CONFIG, scale: float = 1.6) -> Path:
    """Write config.json, model.safetensors and tokenizer.json of a seeded base into `folder`.

    scale: standard deviation of the weights times the root of their fan-in; 1.6 gives heads with visible opinions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(seeded_state(config, seed, scale), folder / "model.safetensors")
    return folder


def tiny_base(folder: Path, seed: int = 0, kv_heads: int | None = None) -> BaseModel:
    """A seeded base, written to `folder` and loaded from it, fp32 on the CPU."""
    text = CONFIG.text if kv_heads is None else replace(CONFIG.text, kv_heads=kv_heads)
    return load_base(str(write_tiny_base(folder, seed, replace(CONFIG, text=text))), device="cpu")


def seeded_state(config: MoondreamConfig, seed: int, scale: float) -> dict[str, torch.Tensor]:
    """Every parameter by name, drawn in sorted order of names."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for name, parameter in sorted(Moondream(config).named_parameters()):
        std = 1.0 if name.endswith("_features") else scale / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.05
        drawn = torch.randn(parameter.shape, generator=generator) * std
        is_norm = name.endswith("weight") and (".ln" in name or "post_ln" in name)
        state[name] = drawn + 1.0 if is_norm else drawn
    return state


def byte_tokenizer() -> Tokenizer:
    """A `tokenizers` file of 10 special tokens and 256 bytes: any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: index for index, name in enumerate((*SPECIALS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer
