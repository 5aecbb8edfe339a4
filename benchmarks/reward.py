"""How fast rewards grade: `python -m benchmarks.reward [--rounds N]`. Writes out/benchmarks/reward.json.

`rates` is a flat map in grades per second, medians over the rounds, arms interleaved, one thread:

    detect_f_beta_10_boxes        soft F-beta of 10 boxes against 10 labels, in this process
    <reward>_<objects>            each built-in in batches of 32 samples, by the number of objects (words, for texts)
    match_reward_<n>, match_iou_matrix_<n>, match_scipy_alone_<n>   a matched reward beside its parts
    grpc_batch_<n>                soft F-beta of 10 boxes through the service, n samples a call, client's work included
    python_user_code_warm, javascript_user_code_warm                user code in its sandbox
    installed_plugin_warm, remote_plugin_warm, judge_warm, container_warm   the other ways, where they can be had

`milliseconds` has what 8 callers at once wait for a batch of 64, and cold starts.
"""

import argparse
import asyncio
import json
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rewards.arm import rates
from benchmarks.rewards.built_in import OBJECTS, built_in_arms, headline_arm, matching_arms
from benchmarks.rewards.outside import measure_outside
from benchmarks.rewards.service import BATCHES, CALLERS, measure
from benchmarks.rewards.user_code import measure_user_code
from services.reward.catalogue import CATALOGUE


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/reward.json"))
    options = parser.parse_args()
    found = rates([headline_arm(), *matching_arms(), *built_in_arms()], options.rounds)
    by_batch, waits = asyncio.run(measure(options.rounds))
    user_code, cold_ms = asyncio.run(measure_user_code(options.rounds))
    outside, outside_cold_ms = asyncio.run(measure_outside(options.rounds))
    found |= by_batch | user_code | outside
    cold_ms |= outside_cold_ms
    milliseconds = {"grpc_8_callers_median": waits.median_ms, "grpc_8_callers_p99": waits.p99_ms, **cold_ms}
    load = os.getloadavg()[0]
    report = {
        "rates": found,
        "milliseconds": milliseconds,
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, load {load:.1f}",
        "rounds": options.rounds,
    }
    _show(found, milliseconds, f"{report['machine']}, median of {options.rounds} rounds")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def _show(found: dict[str, float], milliseconds: dict[str, float], title: str) -> None:
    console = Console(width=110)
    table = Table("reward", *(f"{size} objects" for size in OBJECTS), title=f"Grades per second: {title}")
    for name in (*CATALOGUE, "match_reward", "match_iou_matrix", "match_scipy_alone"):
        row = [found.get(f"{name}_{size}") for size in OBJECTS]
        table.add_row(name, *("" if value is None else f"{value:,.0f}" for value in row))
    console.print(table)
    rest = Table("arm", "grades/s")
    sized = {f"{name}_{size}" for name in CATALOGUE for size in OBJECTS}
    for name, value in found.items():
        if name not in sized and not name.startswith("match_"):
            rest.add_row(name, f"{value:,.0f}")
    console.print(rest)
    for name, value in milliseconds.items():
        console.print(f"{name}: {value:.1f} ms")
    console.print(f"gRPC batches of {', '.join(map(str, BATCHES))}; {CALLERS} callers at once send 64 each")


if __name__ == "__main__":
    main()
