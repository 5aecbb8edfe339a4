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
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.models.ours import Ours
from benchmarks.models.seeded import seeded, sizes
from benchmarks.models.theirs import Theirs
from benchmarks.models.work import TOKENS
from moontune.model.device import choose_device
from moontune.model.moondream import Moondream
from tools.check_golden.stub_tokenizer import StubTokenizer
from tools.public_moondream import generation_of, load_public

ROWS = ("encode", "prefill", "decode", "query", "detect")


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
    """On the CPU its own time, with one thread: what others do on the machine counts less. Elsewhere the clock's."""
    clock = time.perf_counter if torch.accelerator.is_available() else time.process_time
    gc.collect()
    _wait()
    start = clock()
    run()
    _wait()
    return (clock() - start) * 1e3


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_mib(given: argparse.Namespace, side: str) -> float:
    """Peak resident memory, in MiB, of a process that loads one side and answers one query and one detect."""
    command = [sys.executable, "-m", "benchmarks.model", "--size", given.size, "--peak-of", side]
    command += ["--public", str(given.public)] if given.public else []
    ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(ended.stdout.split()[-1])


def _own_peak_mib() -> float:
    """Not by getrusage: a child begins with its parent's peak there."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024  # pyright: ignore[reportOptionalSubscript]


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
            print(_own_peak_mib())
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
