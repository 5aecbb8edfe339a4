"""A seeded base, an engine over it, and short ways to say what is asked."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora import Adapters
from moontune.values.finetune import DEFAULT_TARGETS, FinetuneKind, LoraSettings, LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.image import Image
from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tests.fakes.tiny_base import tiny_base


class Caller:
    """Stays until told to leave, or for a number of polls."""

    def __init__(self, patience: int | None = None) -> None:
        self.patience, self.polls = patience, 0
        self.pieces: list[object] = []

    def emit(self, item: object) -> None:
        self.pieces.append(item)

    def cancelled(self) -> bool:
        self.polls += 1
        return self.patience is not None and self.polls > self.patience


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def engine(base: BaseModel) -> Engine:
    return Engine(base, EngineSettings())


def picture(seed: int, width: int = 40, height: int = 40) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG")
    return Image.of(file.getvalue())


def ask(
    skill: Skill,
    text: str = "red cup",
    image: int | None = 0,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 24,
    max_objects: int = 4,
    reasoning: bool = False,
    spatial_refs: tuple[Point | Box, ...] = (),
) -> SkillRequest:
    wide = image is not None and image % 3 == 2  # tiled: more than one crop
    return SkillRequest(
        skill,
        None if image is None else picture(image, width=90 if wide else 40),
        question=text if skill is Skill.QUERY else "",
        object=text if skill in (Skill.POINT, Skill.DETECT) else "",
        reasoning=reasoning,
        spatial_refs=spatial_refs,
        settings=SamplingSettings(temperature, top_p, max_tokens, max_objects),
    )


@pytest.fixture
def make_order(base: BaseModel) -> Callable[..., GenerationOrder]:
    def make(
        request: SkillRequest, count: int = 3, seed: int = 7, adapter: AdapterRef | None = None
    ) -> GenerationOrder:
        digest = "" if adapter is None else adapter.digest
        policy = PolicyVersion(base.name, base.digest, adapter_digest=digest)
        return GenerationOrder(request, count, seed, policy, adapter)

    return make


@pytest.fixture
def make_adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AdapterRef]:
    """Adapters that act: B is drawn too. The digest is the seed's, which is all that the engine asks of it."""

    def make(
        seed: int, targets: tuple[LoraTarget, ...] = (), rank: int = 4, kind: FinetuneKind = FinetuneKind.LORA
    ) -> AdapterRef:
        adapters = Adapters(share_base(base).module)
        adapters.attach("made", LoraSettings(rank, targets=targets or DEFAULT_TARGETS, seed=seed), kind)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(adapters.parameters("made").items()):
                if ".lora_B." in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
                elif ".lora_A." not in name:  # the tensors of a region head of its own
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        folder = tmp_path_factory.mktemp(f"adapter{seed}")
        adapters.save("made", folder)
        return AdapterRef(f"sha256:{seed:064x}", str(folder))

    return make
