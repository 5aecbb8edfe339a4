"""(b) and (e): many adapters in one batch, against the bare base and against peft's own mixed batches; misses and hits.

Throughput is of 64 rollouts of at most 24 tokens, each about an image of its own, and unmerged adapters of rank 8 on
the text side.
"""

import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from benchmarks.engine.arms import Arm, measure, show
from benchmarks.engine.batching import together
from benchmarks.engine.subjects import Caller, make_adapters, order
from moontune.engine.device_adapters import DeviceAdapters
from moontune.engine.engine import Engine
from moontune.engine.host_adapters import HostAdapters
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.engine.settings import MEBIBYTE, EngineSettings
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora_layers import adaptable_layers
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

SEQUENCES = 64
COUNTS = (1, 4, 16, 64)
FIXED_LENGTH = SamplingSettings(max_tokens=24)


def mixed(base: BaseModel, adapters: list[AdapterRef | None], skill: Skill) -> list[GenerationOrder]:
    """One order of one rollout each, adapters taking turns."""
    settings = FIXED_LENGTH if skill is Skill.QUERY else None
    return [order(base, skill, i, 1, adapters[i % len(adapters)], settings) for i in range(SEQUENCES)]


def throughput(base: BaseModel, adapters: list[AdapterRef], rounds: int, skill: Skill) -> dict[str, float]:
    """Median seconds for the base and for 1, 4, 16 and 64 adapters, prompts' keys and values held in all of them."""
    engine = Engine(base, EngineSettings(adapter_cache_bytes=1024 * MEBIBYTE, prefix_cache_bytes=1024 * MEBIBYTE))
    arms = [Arm("base", together(engine, mixed(base, [None], skill)))]
    for count in COUNTS:
        chosen: list[AdapterRef | None] = list(adapters[:count])
        arms.append(Arm(f"adapters {count}", together(engine, mixed(base, chosen, skill))))
    return measure(arms, rounds)


def passes(base: BaseModel, adapters: list[AdapterRef], rounds: int) -> dict[str, float]:
    """Median seconds of one decode pass of 64 rows through the text model: ours, and peft's `adapter_names`."""
    ours, theirs = share_base(base).module, share_base(base).module
    host = HostAdapters(base.config, 1024 * MEBIBYTE)
    device = DeviceAdapters(ours, tuple(adaptable_layers(base.config)), 1024 * MEBIBYTE)
    for adapter in adapters:
        held = host.take(adapter, Caller().cancelled)
        device.load(held, device.size_bytes(held), pinned=True)
    config = LoraConfig(r=8, target_modules=r"text\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))")
    for adapter in adapters:
        inject_adapter_in_model(config, theirs, adapter_name=f"a{int(adapter.digest[7:], 16)}")
        delattr(theirs, "peft_config")
    theirs.eval()
    embeds = torch.randn(SEQUENCES, 1, base.config.text.dim)
    positions = torch.full((SEQUENCES, 1), 80)

    def our_pass(count: int) -> None:
        with torch.inference_mode():
            device.act(tuple(adapters[i % count].digest if count else "" for i in range(SEQUENCES)))
            ours.hidden(embeds, positions)

    def peft_pass(count: int) -> None:
        names = [f"a{i % count}" for i in range(SEQUENCES)]
        hooks = [
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (args, kwargs | {"adapter_names": names}), with_kwargs=True
            )
            for module in theirs.modules()
            if isinstance(module, LoraLayer)
        ]
        with torch.inference_mode():
            theirs.hidden(embeds, positions)
        for hook in hooks:
            hook.remove()

    arms = [Arm("base", lambda: our_pass(0))]
    for count in COUNTS:
        arms.append(Arm(f"ours {count}", lambda count=count: our_pass(count)))
        arms.append(Arm(f"peft {count}", lambda count=count: peft_pass(count)))
    return measure(arms, rounds)


def residency(base: BaseModel, adapters: list[AdapterRef]) -> dict[str, float]:
    """Seconds of an answer after a miss (files), from the host tier, and on a hit; rates past the slots."""
    probe = Engine(base)
    probe.load(Caller(), adapters[0])
    slot_bytes = probe.status().adapters[0].size_bytes
    engine = Engine(base, EngineSettings(adapter_cache_bytes=8 * slot_bytes))
    one = [order(base, Skill.POINT, 0, 1, adapter) for adapter in adapters]

    def timed(index: int) -> float:
        started = time.perf_counter()
        engine.generate(Caller(), one[index])
        return time.perf_counter() - started

    found: dict[str, float] = {}
    timed(0)
    found["hit"] = sorted(timed(0) for _ in range(9))[4]
    found["miss"] = sorted(timed(index) for index in range(1, 10))[4]
    found["host"] = sorted(timed(index % 10) for index in range(20, 29))[4]
    for working_set in (4, 8, 16, 32):
        orders = [order(base, Skill.POINT, i, 1, adapters[i % working_set]) for i in range(SEQUENCES)]
        engine.generate_all([(Caller(), each) for each in orders])
        started = time.perf_counter()
        for _ in range(3):
            engine.generate_all([(Caller(), each) for each in orders])
        found[f"{working_set} adapters on 8 slots, rollouts/s"] = 3 * SEQUENCES / (time.perf_counter() - started)
    return found


def run(tiny: BaseModel, wide: BaseModel, rounds: int) -> tuple[dict[str, object], dict[str, float]]:
    """Figures on both bases; the ratios without a name of a base are the wide one's."""
    report: dict[str, object] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for base, suffix in ((wide, ""), (tiny, "_tiny")):
            adapters = make_adapters(base, Path(folder) / base.name, COUNTS[-1])
            medians = throughput(base, adapters, rounds, Skill.QUERY)
            report[f"throughput {base.name}"] = show(f"{base.name}: 64 rollouts, 24 tokens", medians, SEQUENCES)
            ratios[f"adapters64_over_1{suffix}"] = medians["adapters 1"] / medians["adapters 64"]
            ratios[f"lora_over_base{suffix}"] = medians["base"] / medians["adapters 1"]
            medians = passes(base, adapters, rounds)
            report[f"passes {base.name}"] = show(f"{base.name}: one decode pass of 64 rows", medians, SEQUENCES)
            ratios[f"peft_over_ours_64{suffix}"] = medians["peft 64"] / medians["ours 64"]
        report["residency"] = residency(tiny, adapters)
    return report, ratios
