"""Our model beside Moondream's public implementation, batch 1: `python -m benchmarks.model --public CHECKOUT`.

Same seeded weights, same image, same greedy work, one process, one torch thread: each round takes every row once with
ours and theirs in turn, the order swapped each round; medians, and the median over the rounds of theirs / ours (above 1
ours is faster), which a busy machine moves less. Peak memory comes from a process of its own for each. Without --public
only ours runs. Writes out/benchmarks/model.json.

    encode      a 640 x 480 picture to 729 image tokens (9 crops)
    prefill     BOS, image and a detect prompt through the text transformer
    decode      one token: embed, run, read the vocabulary's logits; the mean of 16 behind that prefill
    query       picture to an answer of 16 tokens
    detect      picture to 4 boxes

--size: `small` (seconds), `0.5b`, `2b`, `moe` (a small Moondream 3). --device and --dtype run it elsewhere; with
--peak-tflops and --peak-gbps of that device, prefill shows its share of the peak FLOPs and decode its share of the
memory-bandwidth bound. No GPU has run this yet.
"""

import argparse
import gc
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage
from rich.console import Console
from rich.table import Table

from moontune.imaging.decode import decode_image
from moontune.model.config import GoOn, MoondreamConfig
from moontune.model.conventions import UPSTREAM
from moontune.model.decisions import Input, InputKind
from moontune.model.device import choose_device
from moontune.model.moondream import Moondream
from moontune.model.moondream_family import MoondreamFamily
from moontune.model.presets import MOONDREAM2, MOONDREAM2_05B, MOONDREAM2_TOKENIZER, MOONDREAM3
from moontune.model.single import generate
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.rollout import Head
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tools.check_golden.stub_tokenizer import StubTokenizer
from tools.public_moondream import PublicMoondream, generation_of, load_public

TOKENS, OBJECTS = 16, 4
QUESTION, OBJECT = "what is in this picture?", "red thing"
ROWS = ("encode", "prefill", "decode", "query", "detect")
ANY = Image("0" * 64)
QUERY = SkillRequest(Skill.QUERY, ANY, question=QUESTION, settings=SamplingSettings(0.0, max_tokens=TOKENS))
DETECT = SkillRequest(
    Skill.DETECT, ANY, object=OBJECT, settings=SamplingSettings(0.0, max_tokens=3 * OBJECTS, max_objects=OBJECTS)
)
Work = Mapping[str, Callable[[], object]]


def sizes(name: str) -> MoondreamConfig:
    """A config of this size. Moondream 2's goes on as its public code does, so that both do the same work."""
    text, vision = MOONDREAM2.text, MOONDREAM2.vision
    small_text = replace(text, dim=512, ff_dim=2048, layers=8, heads=8, kv_heads=8)
    small = replace(
        MOONDREAM2,
        vision=replace(vision, dim=256, ff_dim=1024, heads=4, projection_inner_dim=1024),
        text=small_text,
        region=replace(MOONDREAM2.region, inner_dim=1024),
    )
    moe = MOONDREAM3.text.moe and replace(MOONDREAM3.text.moe, experts=32, inner_dim=256, start_layer=2)
    config = {
        "small": small,
        "0.5b": replace(MOONDREAM2_05B, tokenizer=MOONDREAM2_TOKENIZER),
        "2b": MOONDREAM2,
        "moe": replace(MOONDREAM3, vision=small.vision, text=replace(small_text, tau=True, rope_theta=1.5e6, moe=moe)),
    }[name]
    go_on = GoOn.COORD if config.text.tau else GoOn.ANY_TOKEN
    return replace(config, name=f"benchmark-{name}", tokenizer=replace(config.tokenizer, go_on=go_on))


def seeded(config: MoondreamConfig, device: str, dtype: torch.dtype) -> Moondream:
    """Random weights that keep activations in a sane range; not trained, so answers mean nothing."""
    with torch.device("meta"):
        model = Moondream(config)
    model.to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        std = 1.0 if name.endswith(("_features", "wte")) else parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.0
        parameter.data.normal_(0.0, 1.0, generator=generator).mul_(std)
        if ".ln" in name or "post_ln" in name:
            parameter.data.add_(1.0 if name.endswith("weight") else 0.0)
    model.requires_grad_(False)
    return model.to(dtype)


def picture() -> bytes:
    """640 x 480 pixels of waves and noise, PNG."""
    dice = np.random.default_rng(0)
    y, x = np.mgrid[0:480, 0:640]
    waves = np.stack([np.sin(x / (9 + 5 * c)) + np.cos(y / (13 - 3 * c)) for c in range(3)], axis=-1)
    file = io.BytesIO()
    PillowImage.fromarray((waves * 50 + 128 + dice.normal(0, 9, waves.shape)).clip(0, 255).astype(np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


class Ours:
    """What is measured of us."""

    def __init__(self, model: Moondream) -> None:
        """Prepares what each row starts from."""
        self.family = MoondreamFamily(model, StubTokenizer())
        self.pixels = decode_image(picture())
        (self.tokens_PD,) = self.encode()
        self.prompt = self.family.prompt(DETECT)

    def encode(self) -> list[torch.Tensor]:
        """Pixels to image tokens."""
        return self.family.encode_images([self.family.crop(self.pixels)])

    def prefill(self) -> object:
        """Prefix and prompt, and the last position's logits."""
        ready = self.family.prefill([self.tokens_PD], [self.prompt])
        return ready, self.family.head_logits(Head.TOKEN, ready.hidden_BD)

    def decode(self) -> Callable[[], object]:
        """A prefilled row, and what feeds it TOKENS tokens."""
        ready = self.family.prefill([self.tokens_PD], [self.prompt])

        def run() -> None:
            at = ready
            for token in range(100, 100 + TOKENS):
                at = self.family.step(at, [Input(InputKind.TOKEN, token)])
                int(self.family.head_logits(Head.TOKEN, at.hidden_BD).argmax())

        return run

    def answer(self, request: SkillRequest) -> object:
        """Picture to answer."""
        made = generate(self.family, request, self.encode()[0], conventions=UPSTREAM)
        return self.family.read_output(request.skill, made.decisions, conventions=UPSTREAM)

    def work(self) -> Work:
        """Every row but decode, which is prepared anew each time."""
        return {
            "encode": self.encode,
            "prefill": self.prefill,
            "query": lambda: self.answer(QUERY),
            "detect": lambda: self.answer(DETECT),
        }


class Theirs:
    """The same of the public implementation."""

    def __init__(self, public: PublicMoondream) -> None:
        """Prepares what each row starts from."""
        self.public, self.model = public, public.model
        self.image = PillowImage.open(io.BytesIO(picture())).convert("RGB")
        self.tokens_PD = self.model._run_vision_encoder(self.image)
        special = self.model.config.tokenizer
        template, stub = special.templates["detect"], StubTokenizer()
        self.prompt = torch.tensor([template["prefix"] + stub.encode(f" {OBJECT}") + template["suffix"]])
        self.settings = public.settings(max_tokens=TOKENS, max_objects=OBJECTS)

    def prefill(self) -> object:
        """As its encode_image and detect do: the prefix into the cache, then the prompt behind it."""
        text, model = self.public.module("text"), self.model
        bos = text.text_encoder(torch.tensor([[model.config.tokenizer.bos_id]]), model.text)
        embeds = torch.cat([bos, self.tokens_PD[None]], dim=1)
        length = embeds.shape[1]
        model._prefill(embeds, model.attn_mask[:, :, :length, :], torch.arange(length), None)
        return model._prefill_prompt(self.prompt, length, 0, 0)

    def decode(self) -> Callable[[], object]:
        """As its generate loop does."""
        text, model = self.public.module("text"), self.model
        *_, start = self.prefill()  # pyright: ignore[reportGeneralTypeIssues]

        def run() -> None:
            mask = torch.zeros(1, 1, model.config.text.max_context, dtype=torch.bool)
            mask[:, :, :start] = True
            for at, token in enumerate(range(100, 100 + TOKENS), start):
                mask[:, :, at] = True
                embeds = text.text_encoder(torch.tensor([[token]]), model.text)
                logits, _ = model._decode_one_tok(embeds, mask, torch.tensor([at]), None)
                int(logits.argmax())

        return run

    def work(self) -> Work:
        """Every row but decode."""
        return {
            "encode": lambda: self.model._run_vision_encoder(self.image),
            "prefill": self.prefill,
            "query": lambda: self.model.query(self.image, QUESTION, reasoning=False, settings=self.settings),
            "detect": lambda: self.model.detect(self.image, OBJECT, settings=self.settings),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """Medians in milliseconds, and how many times as long theirs takes; None without a checkout."""

    name: str
    ours_ms: float
    theirs_ms: float | None = None
    ratio: float | None = None


def measure(ours: Ours, theirs: Theirs | None, rounds: int) -> list[Row]:
    """Every row, interleaved."""
    sides: dict[str, Ours | Theirs] = {"ours": ours} if theirs is None else {"ours": ours, "theirs": theirs}
    times: dict[tuple[str, str], list[float]] = {}
    for round_index in range(rounds + 1):  # the first warms up
        order = list(sides) if round_index % 2 else list(sides)[::-1]
        for row in ROWS:
            for side in order:
                run = sides[side].decode() if row == "decode" else sides[side].work()[row]
                took_ms = _timed_ms(run) / (TOKENS if row == "decode" else 1)
                if round_index:
                    times.setdefault((row, side), []).append(took_ms)
    return [_row(name, times[name, "ours"], times.get((name, "theirs"), [])) for name in ROWS]


def _row(name: str, ours_ms: list[float], theirs_ms: list[float]) -> Row:
    if not theirs_ms:
        return Row(name, statistics.median(ours_ms))
    ratios = [theirs / ours for ours, theirs in zip(ours_ms, theirs_ms, strict=True)]
    return Row(name, statistics.median(ours_ms), statistics.median(theirs_ms), statistics.median(ratios))


def _timed_ms(run: Callable[[], object]) -> float:
    gc.collect()
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return (time.perf_counter() - start) * 1e3


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_mib(given: argparse.Namespace, side: str) -> float:
    """Peak resident memory, in MiB, of a process that loads one side and answers one query and one detect."""
    command = [sys.executable, "-m", "benchmarks.model", "--size", given.size, "--peak-of", side]
    command += ["--public", str(given.public)] if given.public else []
    ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(ended.stdout.split()[-1])


def shares(given: argparse.Namespace, model: Moondream, rows: list[Row]) -> dict[str, float]:
    """Of the device's peaks, ours: FLOPs in prefill (2 per weight and position), bytes in decode (each weight once)."""
    ms = {row.name: row.ours_ms for row in rows}
    body = sum(parameter.numel() for parameter in model.text.blocks.parameters())
    head = sum(parameter.numel() * parameter.element_size() for parameter in model.text.lm_head.parameters())
    read_bytes = body * torch.finfo(model.dtype).bits // 8 + head
    found: dict[str, float] = {}
    if given.peak_tflops:
        positions = model.config.prefix_length + 20
        found["prefill, share of peak FLOPs"] = (
            2 * body * positions / (ms["prefill"] / 1e3) / (given.peak_tflops * 1e12)
        )
    if given.peak_gbps:
        found["decode, share of bandwidth"] = read_bytes / (ms["decode"] / 1e3) / (given.peak_gbps * 1e9)
    return found


def show(rows: list[Row], memory: dict[str, float], given: argparse.Namespace, extra: dict[str, float]) -> None:
    """The table."""
    title = f"{given.size}, {given.device} {given.dtype}, batch 1, {given.rounds} rounds"
    table = Table("", "ours", "public", "public / ours", title=title)
    for row in rows:
        theirs = "" if row.theirs_ms is None else f"{row.theirs_ms:.1f} ms"
        table.add_row(row.name, f"{row.ours_ms:.1f} ms", theirs, "" if row.ratio is None else f"{row.ratio:.2f}")
    if memory:
        ours, theirs = memory["ours"], memory.get("theirs")
        ratio = f"{theirs / ours:.2f}" if theirs else ""
        table.add_row("peak memory", f"{ours:.0f} MiB", f"{theirs:.0f} MiB" if theirs else "", ratio)
    for name, share in extra.items():
        table.add_row(name, f"{share:.1%}", "", "")
    Console().print(table)


def write(path: Path, rows: list[Row], memory: dict[str, float], given: argparse.Namespace, extra: Any) -> None:
    """The figures, by size, beside those of other sizes measured before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[f"{given.size} {given.device} {given.dtype}"] = {
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "load": round(os.getloadavg()[0], 1),
        "rounds": given.rounds,
        "milliseconds": {row.name: {"ours": row.ours_ms, "public": row.theirs_ms, "ratio": row.ratio} for row in rows},
        "peak_mib": memory,
        **extra,
    }
    path.write_text(json.dumps(known, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description=__doc__)
    parser.add_argument("--public", type=Path, help="a checkout of the public implementation")
    parser.add_argument("--size", choices=("small", "0.5b", "2b", "moe"), default="small")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this dtype")
    parser.add_argument("--peak-gbps", type=float, help="of the device's memory")
    parser.add_argument("--peak-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/model.json"))
    return parser.parse_args()


def _load_sides(given: argparse.Namespace) -> tuple[Moondream, Theirs | None]:
    config = sizes(given.size)
    model = seeded(config, choose_device(given.device), getattr(torch, given.dtype))
    if given.peak_of == "ours":
        return model, None
    wanted = "moondream3" if config.text.tau else "moondream2"
    if given.public is None:
        return model, None
    if generation_of(given.public) != wanted:
        raise SystemExit(f"--size {given.size} is of {wanted}, {given.public} holds {generation_of(given.public)}")
    # Both over one storage; the public code runs on the CPU here.
    return model, Theirs(load_public(given.public, config, model.state_dict(), StubTokenizer()))


def main() -> None:
    """Measure, show, write."""
    given = _arguments()
    torch.set_num_threads(1)
    with torch.no_grad():
        model, theirs = _load_sides(given)
        if given.peak_of:
            side: Ours | Theirs = Ours(model) if theirs is None or given.peak_of == "ours" else theirs
            for row in ("query", "detect"):
                side.work()[row]()
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        ours = Ours(model)
        rows = measure(ours, theirs, given.rounds)
    names = ("ours", "theirs") if theirs else ("ours",)
    memory = {name: peak_mib(given, name) for name in names} if given.device == "cpu" else {}
    extra = shares(given, model, rows)
    show(rows, memory, given, extra)
    write(given.out, rows, memory, given, extra)


if __name__ == "__main__":
    main()
