"""Folders as published repositories are: their config.json, names behind `model.`, shards, a large tokenizer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moontune.model.config import MoeConfig, MoondreamConfig
from moontune.model.presets import MOONDREAM2, MOONDREAM3
from tests.fakes.tiny_base import CONFIG, seeded_state

SMALL2 = replace(
    MOONDREAM2,
    vision=CONFIG.vision,
    text=replace(MOONDREAM2.text, dim=128, ff_dim=256, layers=2, heads=2, kv_heads=2),
    region=CONFIG.region,
)
"""Moondream 2 but for its widths, layers and crops."""
SMALL3 = replace(
    MOONDREAM3,
    vision=CONFIG.vision,
    text=replace(
        MOONDREAM3.text,
        dim=128,
        ff_dim=256,
        layers=3,
        heads=2,
        kv_heads=2,
        moe=MoeConfig(experts=8, experts_per_token=2, inner_dim=32, start_layer=1),
    ),
    region=replace(CONFIG.region, inner_dim=None),
)
"""Moondream 3 likewise."""


def write_published(folder: Path, config: MoondreamConfig, shards: int = 1) -> dict[str, torch.Tensor]:
    """Write a repository's files for these sizes; its weights by our names."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"architectures": ["HfMoondream"], "model_type": "moondream1", "config": published_sections(config)}
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    large_tokenizer(config.text.vocab_size).save(str(folder / "tokenizer.json"))
    state = seeded_state(config, seed=1, scale=1.6)
    stored = {f"model.{name}": tensor for name, tensor in state.items()}
    if shards == 1:
        save_file(stored, folder / "model.safetensors")
        return state
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(stored)}
    for file in set(weight_map.values()):
        save_file({name: stored[name] for name in stored if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return state


def published_sections(config: MoondreamConfig) -> dict[str, Any]:
    """The sizes by the public implementation's names."""
    text, vision, region, moe = config.text, config.vision, config.region, config.text.moe
    said: dict[str, Any] = {"dim": text.dim, "ff_dim": text.ff_dim, "n_layers": text.layers, "n_heads": text.heads}
    if moe is not None:
        said["moe"] = {"num_experts": moe.experts, "experts_per_token": moe.experts_per_token}
    return {
        "text": said,
        "vision": {
            "enc_dim": vision.dim,
            "enc_ff_dim": vision.ff_dim,
            "enc_n_layers": vision.layers,
            "enc_n_heads": vision.heads,
            "enc_patch_size": vision.patch_size,
            "crop_size": vision.crop_size,
            "max_crops": vision.max_crops,
            "overlap_margin": vision.overlap_margin,
            "proj_inner_dim": vision.projection_inner_dim,
        },
        "region": {"coord_feat_dim": region.coord_feature_dim, "size_feat_dim": region.size_feature_dim},
    }


def large_tokenizer(entries: int) -> Tokenizer:
    """Bytes behind the special ids, then words that no text holds, so many that it passes for Moondream's own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*(f"<{index}>" for index in range(10)), *alphabet]
    names += [f"<unused {index}>" for index in range(len(names), entries)]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
