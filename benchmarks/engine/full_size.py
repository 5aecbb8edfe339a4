"""Moondream 2 at full size with random weights: the memory-bandwidth bound of a decode step, and requests per second.

No GPU has run this yet: the code has only been exercised on a CPU with a small config. 64 queries of 16 tokens run at
once, each about an image of its own. A decode step must read the text weights, the heads and every row's keys and
values once; at the bandwidth that a copy reaches on the device, that takes `bound_ms`, and `share_of_bandwidth_bound`
is that over what a step takes. `requests_over_vendor` compares with 57 requests per second, a vendor engine's published
H100 figure for short answers at batch 64; images are encoded anew there.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.engine.arms import Arm, measure, show
from benchmarks.engine.batching import together
from benchmarks.engine.subjects import order
from moontune.engine.engine import Engine
from moontune.engine.kv_block import position_bytes
from moontune.engine.plan import make_plan
from moontune.engine.settings import EngineSettings
from moontune.model.base_model import BaseModel
from moontune.model.config import MoondreamConfig
from moontune.model.moondream import Moondream
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

ROWS, TOKENS = 64, 16
VENDOR_PER_S = 57.0
COPIED_BYTES = 1 << 28


def random_base(config: MoondreamConfig, like: BaseModel, device: str) -> BaseModel:
    """A base of this config in bf16 with random weights, on the device; its tokenizer is that of `like`."""
    torch.manual_seed(0)
    with torch.device(device):
        module = Moondream(config).cast_body(torch.bfloat16).eval().requires_grad_(False)
    return BaseModel(config.name, config, module, like.tokenizer, "sha256:" + "0" * 64, device, Path())


def run(
    config: MoondreamConfig, like: BaseModel, device: str, rounds: int
) -> tuple[dict[str, object], dict[str, float]]:
    """Figures and ratios on one device."""
    base = random_base(config, like, device)
    settings = SamplingSettings(max_tokens=TOKENS)
    orders = [order(base, Skill.QUERY, seed, 1, settings=settings) for seed in range(ROWS)]
    cold = EngineSettings(max_sequences=ROWS, prefix_cache_bytes=0, image_cache_bytes=0)
    warm = Engine(base, replace(cold, prefix_cache_bytes=1 << 36))
    arms = [Arm("images anew", together(Engine(base, cold), orders)), Arm("prompts held", together(warm, orders))]
    medians = measure(arms, rounds)
    figures: dict[str, object] = dict(show(f"{base.name} on {device}", medians, ROWS))
    step_s, bandwidth = medians["prompts held"] / TOKENS, _bandwidth(base.module.device)
    bound_s = _step_bytes(base, make_plan(orders[0], base).length) / bandwidth
    ratios = {
        "share_of_bandwidth_bound": bound_s / step_s,
        "requests_over_vendor": ROWS / medians["images anew"] / VENDOR_PER_S,
    }
    figures |= {"step_ms": 1e3 * step_s, "bound_ms": 1e3 * bound_s, "bandwidth_gb_per_s": bandwidth / 1e9}
    Console(width=100).print(figures, ratios)
    return figures, ratios


def _step_bytes(base: BaseModel, prompt_positions: int) -> int:
    """Weights of the text side but for the embeddings, of which a step reads a row each, and all keys and values."""
    text = base.module.text
    weights = sum(parameter.nbytes for name, parameter in text.named_parameters() if name != "wte")
    positions = prompt_positions + TOKENS // 2
    return weights + ROWS * positions * position_bytes(base.config.text, base.module.dtype)


def _bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of the best of ten copies."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    target, best_s = torch.empty_like(source), float("inf")
    for _ in range(10):
        _settle(device)
        started = time.perf_counter()
        target.copy_(source)
        _settle(device)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * COPIED_BYTES / best_s


def _settle(device: torch.device) -> None:
    """Wait for what runs on an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
