"""(a) and (d): what batching, sharing a prefix and caching image tokens are worth; 64 rollouts an arm.

batched    8 prompts x 8 rollouts at once; prompts are run anew in every arm but `warm`
serial     64 orders of one rollout, one after the other: the same engine with a batch of 1, image tokens cached
separate   `batched` with every rollout's prompt run on its own
warm       `batched` with the prompts' keys and values held
cold       `batched` with image tokens computed anew
"""

from collections.abc import Callable

from benchmarks.engine.arms import Arm, measure, show
from benchmarks.engine.subjects import Caller, order, singles
from moontune.engine.engine import Engine
from moontune.engine.order import GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.model.base_model import BaseModel
from moontune.values.skill import Skill

GROUPS = GROUP_SIZE = 8


def together(engine: Engine, orders: list[GenerationOrder]) -> Callable[[], object]:
    """All orders at once."""
    return lambda: engine.generate_all([(Caller(), each) for each in orders])


def run(base: BaseModel, rounds: int) -> tuple[dict[str, object], dict[str, float]]:
    """Figures by skill, and ratios; those without a skill in their name are detect's."""
    report: dict[str, object] = {}
    ratios: dict[str, float] = {}
    for skill in (Skill.DETECT, Skill.POINT, Skill.QUERY):
        plain = [order(base, skill, seed, GROUP_SIZE) for seed in range(GROUPS)]
        alone = Engine(base, EngineSettings(max_sequences=1, prefix_cache_bytes=0))
        one_by_one = singles(plain)

        def serial(alone: Engine = alone, one_by_one: list[GenerationOrder] = one_by_one) -> None:
            for each in one_by_one:
                alone.generate(Caller(), each)

        arms = [
            Arm("batched", together(Engine(base, EngineSettings(prefix_cache_bytes=0)), plain)),
            Arm("serial", serial),
            Arm("separate", together(Engine(base, EngineSettings(prefix_cache_bytes=0, share_prefixes=False)), plain)),
            Arm("warm", together(Engine(base), plain)),
            Arm("cold", together(Engine(base, EngineSettings(prefix_cache_bytes=0, image_cache_bytes=0)), plain)),
        ]
        medians = measure(arms, rounds)
        report[str(skill)] = show(f"{skill}: 64 rollouts on {base.name}", medians, GROUPS * GROUP_SIZE)
        ratios[f"batched_over_serial_{skill}"] = medians["serial"] / medians["batched"]
        ratios[f"group_over_separate_{skill}"] = medians["batched"] / medians["separate"]
    for name in ("batched_over_serial", "group_over_separate"):
        ratios[name] = ratios[f"{name}_{Skill.DETECT}"]
    return report, ratios
