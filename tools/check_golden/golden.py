"""A golden directory: the model it describes, filled with its weights, its image, and what upstream made of them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from moontune.imaging.crops import ImageCrops, cut_crops
from moontune.imaging.decode import ImageLimits, decode_image
from moontune.model.config import GoOn, MoondreamConfig
from moontune.model.moondream import Moondream
from moontune.model.moondream_family import MoondreamFamily
from moontune.model.published_config import published_config
from tools.check_golden.fill import Expected, Manifest, fill, find_seed
from tools.check_golden.stub_tokenizer import StubTokenizer

ANY_SIZE = ImageLimits(encoded_bytes=1 << 30, pixels=150_000_000, aspect=100_000)
"""A directory's picture is not a stranger's request: noise of a few megapixels is more than a request may bring."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """One directory, loaded. results: results.json as it stands. variant: None without an adapter."""

    folder: Path
    seed: int
    manifest: Manifest
    model: Moondream
    crops: ImageCrops
    image_PD: Tensor
    tensors: dict[str, Tensor]
    results: dict[str, Any]
    variant: Path | None

    @property
    def config(self) -> MoondreamConfig:
        """Ours, with upstream's way to go on."""
        return self.model.config

    @property
    def family(self) -> MoondreamFamily:
        """The model behind the family interface, with the stub tokenizer."""
        return MoondreamFamily(self.model, StubTokenizer())

    @property
    def state(self) -> dict[str, Tensor]:
        """The model's weights, as filled."""
        return dict(self.model.state_dict())


def load_golden(folder: Path, seed: int | None = None) -> Golden:
    """Read a directory and build its model; `seed` None finds it. Raises OSError or ValueError where it is damaged."""
    entries = json.loads((folder / "weights_manifest.json").read_text())
    manifest = {
        name: Expected(tuple(entry["shape"]), entry["sum"], entry["abs_sum"]) for name, entry in entries.items()
    }
    shapes = {name: expected.shape for name, expected in manifest.items()}
    config = upstream_config(json.loads((folder / "config.json").read_text()), shapes)
    seed = find_seed(manifest, folder) if seed is None else seed
    with torch.device("meta"):
        model = Moondream(config)
    model.load_state_dict(fill(manifest, seed), assign=True)
    model.requires_grad_(False)
    crops = cut_crops(decode_image((folder / "image.png").read_bytes(), limits=ANY_SIZE), config.vision.crop_layout)
    variant = folder / "variant_lora.safetensors"
    return Golden(
        folder=folder,
        seed=seed,
        manifest=manifest,
        model=model,
        crops=crops,
        image_PD=model.encode_image(crops),
        tensors=load_file(folder / "tensors.safetensors"),
        results=json.loads((folder / "results.json").read_text()),
        variant=variant if variant.is_file() else None,
    )


def upstream_config(tree: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> MoondreamConfig:
    """Our config, but that another object follows whatever upstream takes for one.

    Moondream 2's public code goes on after any token but end of text, Moondream 3's by coord against end of text.
    """
    config = published_config(tree, shapes)
    if config.text.tau:
        return config
    return replace(config, tokenizer=replace(config.tokenizer, go_on=GoOn.ANY_TOKEN))
