"""What the engine's batching and prefix sharing are worth: `python -m benchmarks.engine [--base NAME] [--rounds N]`.

One interleaved run: each round takes every arm once, in an order that rotates, with one torch thread; medians over the
rounds, and ratios of medians. Image tokens are cached in every arm but `cold`. Writes out/benchmarks/engine.json.

    batched    8 prompts x 8 rollouts, one batch (an arm is 64 rollouts)
    adapter    the same with a LoRA of rank 8 on the text side, unmerged
    unshared   the same with every rollout's prefix run on its own
    serial     64 orders of one rollout, one after the other: the engine with a batch of 1
    cold       batched, with image tokens computed anew
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image as PillowImage
from PIL import ImageDraw
from rich.console import Console
from rich.table import Table

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.model.base_model import BaseModel, load_base, share_base
from moontune.model.lora import Adapters
from moontune.values.finetune import LoraSettings
from moontune.values.image import Image
from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.sampling import rollout_defaults
from moontune.values.skill import Skill

GROUPS = GROUP_SIZE = 8
COLOURS = ("red", "green", "blue", "yellow")


class Caller:
    """Never leaves."""

    def cancelled(self) -> bool:
        """Always false."""
        return False


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to get 64 rollouts; `run` returns the decisions taken."""

    name: str
    run: Callable[[], int]


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


def orders(base: BaseModel, skill: Skill, adapter: AdapterRef | None = None) -> list[GenerationOrder]:
    """8 orders of 8 rollouts at temperature 1, default limits."""
    policy = PolicyVersion(base.name, base.digest)
    found: list[GenerationOrder] = []
    for seed in range(GROUPS):
        text = {"question": "what colour is the largest object ?"} if skill is Skill.QUERY else {"object": "circle"}
        request = SkillRequest(skill, scene(seed), settings=rollout_defaults(skill), **text)
        found.append(GenerationOrder(request, GROUP_SIZE, seed, policy, adapter))
    return found


def make_adapter(base: BaseModel, folder: Path) -> AdapterRef:
    """A rank-8 adapter on the text side whose delta is there but hardly changes the answers."""
    adapters = Adapters(share_base(base).module)
    adapters.attach("bench", LoraSettings(8))
    with torch.no_grad():
        for name, parameter in adapters.parameters("bench").items():
            if ".lora_B." in name:
                parameter.fill_(1e-6)
    adapters.save("bench", folder)
    return AdapterRef("sha256:" + "b" * 64, str(folder))


def arms(base: BaseModel, skill: Skill, adapter: AdapterRef) -> list[Arm]:
    """The arms of the module's docstring."""
    engine = Engine(base, EngineSettings())
    tuned = Engine(base, EngineSettings())
    unshared = Engine(base, EngineSettings(share_prefixes=False))
    cold = Engine(base, EngineSettings(image_cache_bytes=0))
    plain, with_adapter = orders(base, skill), orders(base, skill, adapter)
    singles = [
        replace(order, num_rollouts=1, seed=1000 * order.seed + index) for order in plain for index in range(GROUP_SIZE)
    ]

    def together(where: Engine, what: list[GenerationOrder]) -> Callable[[], int]:
        return lambda: sum(each.usage.output_tokens for each in where.generate_all([(Caller(), o) for o in what]))

    def serial() -> int:
        return sum(engine.generate(Caller(), order).usage.output_tokens for order in singles)

    return [
        Arm("batched", together(engine, plain)),
        Arm("adapter", together(tuned, with_adapter)),
        Arm("unshared", together(unshared, plain)),
        Arm("serial", serial),
        Arm("cold", together(cold, plain)),
    ]


def measure(found: list[Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round; the first round, a warm-up, is left out."""
    seconds: dict[str, list[float]] = {arm.name: [] for arm in found}
    for turn in range(rounds + 1):
        for arm in found[turn % len(found) :] + found[: turn % len(found)]:
            started = time.perf_counter()
            arm.run()
            if turn:
                seconds[arm.name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="moontune-tiny")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/engine.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(options.base, device="cpu")
    report: dict[str, object] = {"base": base.name, "digest": base.digest, "threads": 1, "rounds": options.rounds}
    ratios: dict[str, float] = {}
    table = Table(title=f"64 rollouts on {base.name}, 1 thread, median of {options.rounds} rounds")
    for column in ("skill", "arm", "decisions", "ms", "rollouts/s", "x of batched"):
        table.add_column(column, justify="left" if column in ("skill", "arm") else "right")
    with tempfile.TemporaryDirectory() as folder:
        adapter = make_adapter(base, Path(folder))
        for skill in (Skill.DETECT, Skill.POINT, Skill.QUERY):
            found = arms(base, skill, adapter)
            decisions = {arm.name: arm.run() for arm in found}
            medians = {name: statistics.median(values) for name, values in measure(found, options.rounds).items()}
            fast = medians["batched"]
            for name, median in medians.items():
                row = (f"{decisions[name]}", f"{1e3 * median:.1f}", f"{64 / median:.0f}", f"{median / fast:.2f}")
                table.add_row(str(skill), name, *row)
            report[str(skill)] = {
                name: {"seconds": median, "rollouts_per_s": 64 / median, "decisions": decisions[name]}
                for name, median in medians.items()
            }
            ratios |= {
                f"batched_over_serial_{skill}": medians["serial"] / fast,
                f"lora_over_base_{skill}": fast / medians["adapter"],
                f"group_over_separate_{skill}": fast / medians["unshared"],
            }
    for name in ("batched_over_serial", "lora_over_base", "group_over_separate"):
        ratios[name] = ratios[f"{name}_{Skill.DETECT}"]
    Console(width=100).print(table)
    Console(width=100).print({name: round(value, 3) for name, value in ratios.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report | {"ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
