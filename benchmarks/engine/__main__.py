"""The generation engine in numbers: `python -m benchmarks.engine [--only PART ...] [--rounds N] [--threads N]`.

Parts: batching (a, d), adapters (b, e), load (c), wire (f); with `--device cuda`, only: Moondream 2 at full size, which
no machine has run yet. Each interleaves its arms, with torch's
threads pinned; medians, and ratios of medians. Writes out/benchmarks/engine.json, where `ratios` is a flat map; parts
that are not run keep the figures they had there.
"""

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.engine import adapters, batching, full_size, load, wire
from benchmarks.engine.subjects import write_wide_base
from moontune.model.base_model import load_base
from moontune.model.device import KNOWN, choose_device
from moontune.model.presets import PRESETS

PARTS = ("batching", "adapters", "load", "wire")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="moontune-tiny")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=KNOWN, default="cpu", help="an accelerator: only full size, random bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each offered load")
    parser.add_argument("--wide", type=int, default=1024, help="text width of the seeded base for adapters")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/engine.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device != "cpu":
        options.only = ()
    partly = set(options.only) < set(PARTS)
    report = json.loads(options.out.read_text()) if partly and options.out.exists() else {}
    ratios: dict[str, float] = report.get("ratios", {})
    base = load_base(options.base, device="cpu")
    report |= {
        "base": base.name,
        "digest": base.digest,
        "threads": options.threads,
        "rounds": options.rounds,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg(),
    }
    if "batching" in options.only:
        report["batching"], found = batching.run(base, options.rounds)
        ratios |= found
    if "adapters" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            wide = write_wide_base(Path(folder) / "wide", options.wide, layers=2)
            report["adapters"], found = adapters.run(base, wide, options.rounds)
        ratios |= found
    if "load" in options.only:
        report["load"] = load.run(base, options.seconds)
    if "wire" in options.only:
        report["wire"], found = wire.run(base, options.rounds)
        ratios |= found
    if options.device != "cpu":
        device = choose_device(options.device)
        report["full_size"], found = full_size.run(PRESETS["moondream2"], base, device, options.rounds)
        ratios |= found
    report["ratios"] = ratios
    Console(width=100).print({name: round(value, 3) for name, value in ratios.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
