"""What is measured on: scenes, orders, adapters, and a seeded base wide enough for adapters to be small beside it."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from PIL import Image as PillowImage
from PIL import ImageDraw
from safetensors.torch import save_file

from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.model.base_model import BaseModel, find_base, load_base, share_base
from moontune.model.config import MoondreamConfig
from moontune.model.lora import Adapters
from moontune.model.moondream import Moondream
from moontune.values.finetune import LoraSettings
from moontune.values.image import Image
from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings, rollout_defaults
from moontune.values.skill import Skill

COLOURS = ("red", "green", "blue", "yellow")


class Caller:
    """Never leaves, and counts the pieces it is sent."""

    pieces = 0

    def cancelled(self) -> bool:
        """Always false."""
        return False

    def emit(self, item: object) -> None:
        """One piece of a stream."""
        del item
        self.pieces += 1


def scene(seed: int, side: int = 64) -> Image:
    """A grey picture with a few coloured discs."""
    generator = torch.Generator().manual_seed(seed)
    picture = PillowImage.new("RGB", (side, side), (120, 120, 120))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
        x, y, radius, colour = (int(torch.randint(low, high, (1,), generator=generator)) for low, high in
                                ((12, side - 12), (12, side - 12), (5, 11), (0, len(COLOURS))))  # fmt: skip
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Image.of(file.getvalue())


def order(
    base: BaseModel,
    skill: Skill,
    seed: int,
    count: int,
    adapter: AdapterRef | None = None,
    settings: SamplingSettings | None = None,
) -> GenerationOrder:
    """`count` rollouts about scene `seed`, at the rollout defaults (temperature 1) unless told otherwise."""
    text = {"question": "what colour is the largest object ?"} if skill is Skill.QUERY else {"object": "circle"}
    request = SkillRequest(skill, scene(seed), settings=settings or rollout_defaults(skill), **text)
    digest = "" if adapter is None else adapter.digest
    return GenerationOrder(request, count, seed, PolicyVersion(base.name, base.digest, adapter_digest=digest), adapter)


def singles(orders: list[GenerationOrder]) -> list[GenerationOrder]:
    """The same rollouts as orders of one rollout each."""
    return [
        replace(each, num_rollouts=1, seed=1000 * each.seed + index)
        for each in orders
        for index in range(each.num_rollouts)
    ]


def make_adapters(base: BaseModel, folder: Path, count: int, rank: int = 8) -> list[AdapterRef]:
    """Adapters on the text side whose deltas are there but hardly change the answers."""
    made: list[AdapterRef] = []
    adapters = Adapters(share_base(base).module)
    for seed in range(count):
        name = f"bench{seed}"
        adapters.attach(name, LoraSettings(rank, seed=seed))
        with torch.no_grad():
            for key, parameter in adapters.parameters(name).items():
                if ".lora_B." in key:
                    parameter.fill_(1e-6)
        adapters.save(name, folder / name)
        adapters.remove(name)
        made.append(AdapterRef(f"sha256:{seed:064x}", str(folder / name)))
    return made


def write_wide_base(folder: Path, dim: int, layers: int) -> BaseModel:
    """A base like moontune-tiny with a wider text side and seeded weights; its answers mean nothing."""
    tiny = find_base("moontune-tiny")
    config = MoondreamConfig.from_json((tiny / "config.json").read_text(encoding="utf-8"))
    text = replace(config.text, dim=dim, ff_dim=4 * dim, layers=layers, heads=dim // 64, kv_heads=dim // 64)
    config = replace(config, name=f"wide-{dim}", text=text)
    torch.manual_seed(0)
    model = Moondream(config)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    state = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    save_file(state, folder / "model.safetensors")
    return load_base(str(folder), device="cpu")
