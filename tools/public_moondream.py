"""A checkout of a public torch implementation of Moondream, run on our weights: for parity checks and benchmarks.

Two layouts are known: `moondream/torch` (Moondream 2, github.com/vikhyat/moondream) and `moondream3` (the preview's
remote code). Nothing of it is part of this project; it is imported from a path the caller gives. What does not work
offline or differs by what is installed is set aside: its tokenizer comes from a hub (ours is given instead), its
resizer from whether pyvips is there (PIL is used), and it casts pixels to bf16 even for an fp32 model (its model's
dtype is used).
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer

LAYOUTS = {"moondream2": "moondream.torch", "moondream3": "moondream3"}
"""Packages inside a checkout, by generation."""


@dataclass(frozen=True, slots=True, eq=False)
class PublicMoondream:
    """A loaded public model. generation: moondream2 or moondream3."""

    generation: str
    package: str
    model: Any

    def module(self, name: str) -> ModuleType:
        """One of its files."""
        return importlib.import_module(f"{self.package}.{name}")

    def settings(self, max_tokens: int = 8, max_objects: int = 3) -> dict[str, Any]:
        """Greedy, with limits; Moondream 2's code wants the adapter named even when there is none."""
        limits: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens, "max_objects": max_objects}
        return {**limits, "variant": None} if self.generation == "moondream2" else limits

    def crops(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """Normalised crops [N, C, H, W], the global one first, and the tiling."""
        return self.module("moondream").prepare_crops(image, self.model.config.vision, device="cpu")


def generation_of(checkout: Path) -> str:
    """Which generation a checkout holds; raises ValueError for a folder that holds neither."""
    for generation, package in LAYOUTS.items():
        if (checkout / package.replace(".", "/") / "moondream.py").is_file():
            return generation
    raise ValueError(f"{checkout} holds neither of {', '.join(LAYOUTS.values())}; give a checkout's top folder")


def load_public(
    checkout: Path, config: MoondreamConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer
) -> PublicMoondream:
    """Build the public model of these sizes and give it these weights (by the current names), in their dtype."""
    generation = generation_of(checkout)
    package = LAYOUTS[generation]
    sys.modules.setdefault("pyvips", None)  # pyright: ignore[reportArgumentType]
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    code = importlib.import_module(f"{package}.moondream")
    dtype = state["text.wte"].dtype
    code.Tokenizer = SimpleNamespace(from_pretrained=lambda _name: _Tokenizer(tokenizer))
    code.prepare_crops = _prepare_crops(importlib.import_module(f"{package}.vision"), dtype)
    model = code.MoondreamModel(_sizes(importlib.import_module(f"{package}.config"), config), dtype=dtype)
    model.load_state_dict(state, strict=False, assign=True)
    model.requires_grad_(False)
    # The attention that this flag selects needs a compiler to be fast; without one it runs step by step.
    model.use_flex_decoding = False
    return PublicMoondream(generation, package, model)


class _Tokenizer:
    """Ours in the form that the public code calls."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.decode = tokenizer.decode
        self.encode = lambda text: SimpleNamespace(ids=tokenizer.encode(text))


def _prepare_crops(vision: ModuleType, dtype: torch.dtype) -> Any:
    def prepare(image: Image.Image, config: Any, device: Any) -> tuple[Tensor, tuple[int, int]]:
        pixels = np.array(image.convert("RGB"))
        cut = vision.overlap_crop_image(pixels, max_crops=config.max_crops, overlap_margin=config.overlap_margin)
        crops = torch.from_numpy(np.transpose(cut["crops"], (0, 3, 1, 2))).to(device=device, dtype=dtype)
        return crops.div_(255.0).sub_(0.5).div_(0.5), cut["tiling"]

    return prepare


def _sizes(module: ModuleType, config: MoondreamConfig) -> Any:
    text, vision, region = config.text, config.vision, config.region
    sizes: dict[str, Any] = {
        "dim": text.dim,
        "ff_dim": text.ff_dim,
        "n_layers": text.layers,
        "vocab_size": text.vocab_size,
        "max_context": text.max_context,
        "n_heads": text.heads,
        "n_kv_heads": text.kv_heads,
    }
    if text.moe is not None:
        sizes["moe"] = module.TextMoeConfig(
            num_experts=text.moe.experts,
            start_layer=text.moe.start_layer,
            experts_per_token=text.moe.experts_per_token,
            expert_inner_dim=text.moe.inner_dim,
        )
    heads: dict[str, Any] = {} if region.inner_dim is None else {"inner_dim": region.inner_dim}
    return module.MoondreamConfig(
        text=module.TextConfig(**sizes),
        vision=module.VisionConfig(
            enc_dim=vision.dim,
            enc_patch_size=vision.patch_size,
            enc_n_layers=vision.layers,
            enc_ff_dim=vision.ff_dim,
            enc_n_heads=vision.heads,
            proj_out_dim=text.dim,
            crop_size=vision.crop_size,
            max_crops=vision.max_crops,
            overlap_margin=vision.overlap_margin,
            proj_inner_dim=vision.projection_inner_dim,
        ),
        region=module.RegionConfig(
            dim=text.dim,
            coord_feat_dim=region.coord_feature_dim,
            coord_out_dim=region.bins,
            size_feat_dim=region.size_feature_dim,
            size_out_dim=2 * region.bins,
            **heads,
        ),
    )
