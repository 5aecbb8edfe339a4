"""The configuration of moontune-tiny and its folder on disk."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from moontune.model.base_folders import CONFIG_FILE, TOKENIZER_FILE
from moontune.model.config import (
    CaptionTemplates,
    LimitsConfig,
    MoondreamConfig,
    RegionConfig,
    Template,
    TextConfig,
    TokenizerConfig,
    VisionConfig,
)
from moontune.model.moondream import Moondream
from moontune.model.weight_files import WEIGHTS_FILE
from tools.tiny_base.dataset import PATCH
from tools.tiny_base.scenes import SIDE

NAME = "moontune-tiny"


def tiny_config(
    entries: int, vision_dim: int = 128, text_dim: int = 128, layers: tuple[int, int] = (4, 4)
) -> MoondreamConfig:
    """One crop of SIDE pixels, heads of 32, half of each rotated. `entries`: of the tokenizer. layers: vision, text."""
    return MoondreamConfig(
        name=NAME,
        vision=VisionConfig(
            dim=vision_dim, ff_dim=4 * vision_dim, layers=layers[0], heads=vision_dim // 32, patch_size=PATCH,
            crop_size=SIDE, max_crops=1, overlap_margin=0, projection_inner_dim=2 * vision_dim,
        ),
        text=TextConfig(
            dim=text_dim, ff_dim=4 * text_dim, layers=layers[1], heads=text_dim // 32, kv_heads=text_dim // 32,
            vocab_size=-(-entries // 64) * 64, max_context=512, rotary_dim=16,
        ),
        region=RegionConfig(coord_feature_dim=64, size_feature_dim=128, inner_dim=256),
        tokenizer=TokenizerConfig(
            bos_id=0, eos_id=0, answer_id=3, thinking_id=4, coord_id=5, size_id=6, start_ground_points_id=7,
            end_ground_id=9, query=Template((1, 10, 2), (3,)), reasoning_suffix=(4,), detect=Template((1, 11, 2), (3,)),
            point=Template((1, 12, 2), (3,)), caption=CaptionTemplates((1, 13, 3), (1, 14, 3), (1, 15, 3)),
        ),
        limits=LimitsConfig(max_objects=50, max_lora_rank=64),
    )  # fmt: skip


def save_base(folder: Path, model: Moondream, tokenizer: Tokenizer) -> None:
    """Write config, tokenizer and bf16 weights; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / CONFIG_FILE, model.config.to_json())
    _replace(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True))
    tensors = {name: parameter.detach().to(torch.bfloat16).contiguous() for name, parameter in model.named_parameters()}
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS_FILE)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
