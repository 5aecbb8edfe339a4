"""(c): latency and throughput over offered load, open loop: requests come when they come, whatever is still running.

Streamed queries of at most 24 tokens, arrivals drawn as a Poisson process. The offered loads are shares of what the
engine does with 64 requests always in flight.
"""

import random
import threading
import time

from rich.console import Console
from rich.table import Table

from benchmarks.engine.subjects import Caller, order
from moontune.engine.engine import Engine
from moontune.engine.order import GenerationOrder
from moontune.model.base_model import BaseModel
from moontune.values.inference import Usage
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

SHARES = (0.25, 0.5, 0.75, 0.9)
SETTINGS = SamplingSettings(max_tokens=24)


def run(base: BaseModel, seconds: float) -> dict[str, object]:
    """Percentiles in milliseconds for each offered load."""
    engine = Engine(base)
    orders = [order(base, Skill.QUERY, seed, 1, settings=SETTINGS) for seed in range(64)]
    engine.generate_all([(Caller(), each) for each in orders])
    started = time.perf_counter()
    engine.generate_all([(Caller(), each) for each in orders])
    most_per_s = len(orders) / (time.perf_counter() - started)
    table = Table(title=f"open loop on {base.name}, queries of 24 tokens, most {most_per_s:.0f}/s")
    for column in (
        "offered/s",
        "done/s",
        "first decision p50/p95/p99 ms",
        "per decision p50 ms",
        "whole p50/p95/p99 ms",
    ):
        table.add_column(column, justify="right")
    report: dict[str, object] = {"most_per_s": most_per_s}
    for share in SHARES:
        usages, wall_s = _offer(engine, orders, share * most_per_s, seconds)
        first = sorted(1e3 * (each.queue_s + each.prefill_s) for each in usages)
        step = sorted(1e3 * each.decode_s / max(1, each.output_tokens - 1) for each in usages)
        whole = sorted(1e3 * (each.queue_s + each.prefill_s + each.decode_s) for each in usages)
        row = {
            "offered_per_s": share * most_per_s,
            "done_per_s": len(usages) / wall_s,
            "first_decision_ms": [_at(first, p) for p in (0.5, 0.95, 0.99)],
            "per_decision_ms": _at(step, 0.5),
            "whole_ms": [_at(whole, p) for p in (0.5, 0.95, 0.99)],
        }
        report[f"{share:.2f}"] = row
        table.add_row(
            f"{row['offered_per_s']:.0f}",
            f"{row['done_per_s']:.0f}",
            " / ".join(f"{_at(first, p):.1f}" for p in (0.5, 0.95, 0.99)),
            f"{_at(step, 0.5):.2f}",
            " / ".join(f"{_at(whole, p):.1f}" for p in (0.5, 0.95, 0.99)),
        )
    Console(width=120).print(table)
    return report


def _offer(engine: Engine, orders: list[GenerationOrder], per_s: float, seconds: float) -> tuple[list[Usage], float]:
    draw, usages, threads = random.Random(0), list[Usage](), list[threading.Thread]()
    started = due = time.perf_counter()
    while due - started < seconds:
        due += draw.expovariate(per_s)
        time.sleep(max(0.0, due - time.perf_counter()))
        one = orders[len(threads) % len(orders)]
        thread = threading.Thread(target=lambda one=one: usages.append(engine.generate(Caller(), one).usage))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    return usages, time.perf_counter() - started


def _at(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
