from dataclasses import replace
from pathlib import Path

import pytest

from moontune.model.base_model import BaseModel, load_base
from moontune.model.config import MoeConfig
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


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
