from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.model.adapter_tensors import AdapterTensors, LoraPair
from moontune.model.base_model import BaseModel, load_base
from moontune.model.config import MoeConfig, MoondreamConfig
from moontune.model.lora_layers import region_shapes, target_layers
from moontune.values.finetune import LoraSettings
from tests.fakes.tiny_base import CONFIG, write_tiny_base

MOE = replace(
    CONFIG,
    name="tiny-moe",
    text=replace(CONFIG.text, moe=MoeConfig(experts=4, experts_per_token=2, inner_dim=24, start_layer=1), tau=True),
    region=replace(CONFIG.region, inner_dim=None),
)
"""As Moondream 3: one dense layer, one with 4 experts of which 2 act, tau attention, linear region heads."""


@pytest.fixture(scope="session", params=[CONFIG, MOE], ids=["moondream2", "moondream3"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(write_tiny_base(tmp_path_factory.mktemp("base"), 3, request.param)), device="cpu")


@pytest.fixture(scope="session")
def draw() -> Callable[..., AdapterTensors]:
    """An adapter with every tensor drawn, and with a region head of its own where asked."""

    def make(config: MoondreamConfig, lora: LoraSettings, seed: int = 0, region: bool = False) -> AdapterTensors:
        generator = torch.Generator().manual_seed(seed)

        def drawn(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * 0.1

        pairs = {name: shape.pair(lora.rank) for name, shape in target_layers(config, lora).items()}
        layers = {name: LoraPair(drawn(a), drawn(b)) for name, (a, b) in pairs.items()}
        full = {name: drawn(shape) for name, shape in region_shapes(config).items()} if region else {}
        return AdapterTensors(lora, layers, full)

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
