"""What a training step costs and why: `python -m benchmarks.trainer [--base NAME] [--rounds N]`.

Writes out/benchmarks/trainer.json. One thread everywhere; medians over the rounds, arms interleaved. `ratios`:

    durability_share_of_step        files and commit (and rpc) of a step of 8 x 8 detections, over the whole call
    peak_memory_32_groups_over_4    growth of resident memory by a step of 32 groups, over that of one of 4
    peak_memory_group_64_over_8     the same by a group of 64 rollouts over one of 8, 4 groups each
    prefix_once_over_per_rollout    times faster with image and prompt once per group than once per rollout
    two_ranks_over_one              times faster on two ranks of one thread each than on one
    switch_from_files_over_memory   a step after a change of finetune that is read from files, over one in memory
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training import prefix, service
from moontune.model.base_model import load_base
from moontune.values.skill import Skill

SIZES = [(Skill.DETECT, 4, 4, 3), (Skill.DETECT, 8, 8, 3), (Skill.DETECT, 16, 8, 3), (Skill.QUERY, 8, 8, 16)]
HEADLINE = "detect 8 x 8 x 3"
MICRO_TOKENS = 512
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "benchmarks.training.learner")


def alone(base: str, folder: Path, count: int, rollouts: int, steps: int, *, ranks: int = 1) -> dict[str, list[float]]:
    """What `benchmarks.training.learner` tells of a fresh process (or two of them)."""
    module = TORCHRUN if ranks > 1 else ("benchmarks.training.learner",)
    arguments = [base, str(folder), *(str(number) for number in (count, rollouts, 3, MICRO_TOKENS, steps))]
    done = subprocess.run(  # noqa: S603  (ourselves)
        [sys.executable, "-m", *module, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def memory(base: str, folder: Path) -> dict[str, int]:
    """Bytes that resident memory grows by in two steps, by (groups, rollouts)."""
    sizes = [(4, 8), (8, 8), (16, 8), (32, 8), (4, 16), (4, 64)]
    return {
        f"{count} x {rollouts}": int(alone(base, folder / f"m{count}x{rollouts}", count, rollouts, 2)["grown_bytes"])
        for count, rollouts in sizes
    }


def ranks(base: str, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of a step of 16 x 8 on one rank and on two; the first step, a warm-up, is left out."""
    return {
        str(size): statistics.median(alone(base, folder / f"r{size}", 16, 8, rounds + 1, ranks=size)["seconds"][1:])
        for size in (1, 2)
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="moontune-tiny")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/trainer.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits, switching = asyncio.run(service.measure(options.base, folder, SIZES, options.rounds))
        once = prefix.measure(load_base(options.base, device="cpu"), folder / "prefix", options.rounds)
        grown = memory(options.base, folder)
        by_ranks = ranks(options.base, folder, options.rounds)
    ratios = {
        "durability_share_of_step": splits[HEADLINE].durability / splits[HEADLINE].step,
        "peak_memory_32_groups_over_4": grown["32 x 8"] / grown["4 x 8"],
        "peak_memory_group_64_over_8": grown["4 x 64"] / grown["4 x 8"],
        "prefix_once_over_per_rollout": once["per_rollout"] / once["once"],
        "two_ranks_over_one": by_ranks["1"] / by_ranks["2"],
        "switch_from_files_over_memory": switching["from_files"] / switching["in_memory"],
    }
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "base": options.base,
        "rounds": options.rounds,
        "steps": {key: {"step": split.step, **split.phases} for key, split in splits.items()},
        "grown_bytes": grown,
        "seconds_by_ranks": by_ranks,
        "switch_seconds": switching,
        "prefix_seconds": once,
        "ratios": ratios,
    }
    show(report)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def show(report: dict[str, object]) -> None:
    """Tables of a report."""
    console = Console(width=120)
    steps = report["steps"]
    assert isinstance(steps, dict)
    names = list(next(iter(steps.values())))
    table = Table("groups x rollouts x length", *names, title=f"Milliseconds of a step: {report['machine']}")
    for key, split in steps.items():
        table.add_row(key, *(f"{1e3 * split[name]:.1f}" for name in names))
    console.print(table)
    for key in ("grown_bytes", "seconds_by_ranks", "switch_seconds", "prefix_seconds", "ratios"):
        console.print(key, report[key])


if __name__ == "__main__":
    main()
