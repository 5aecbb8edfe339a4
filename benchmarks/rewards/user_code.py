"""User code in its sandbox, cold and warm: one organisation, batches of 64, the profile that this machine allows."""

import statistics
import time

from benchmarks.rewards.samples import samples_for
from moontune.errors import MoontuneError
from moontune.values.reward_definition import CodeLanguage, UserCode
from services.reward.catalogue import entry_named
from services.reward.config import RewardSettings
from services.reward.sandbox.jail import Jail
from services.reward.sandbox.sandbox import Sandbox
from services.reward.usercode.code import SandboxedCode
from services.reward.usercode.sample_json import sample_to_json

BATCH = 64
CALLS = 8
"""Batches of one round."""

PYTHON = """
def score(sample):
    said, true = sample["output"]["objects"], sample["ground_truth"]["boxes"]
    return 1.0 - abs(len(said) - len(true)) / max(1, len(true))
"""

JAVASCRIPT = """
function reward(out, gt) {
  return 1 - Math.abs(out.objects.length - gt.boxes.length) / Math.max(1, gt.boxes.length);
}
"""

CODE = {
    "python": UserCode(CodeLanguage.PYTHON, PYTHON),
    "javascript": UserCode(CodeLanguage.JAVASCRIPT, JAVASCRIPT),
}


async def measure_user_code(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """`<language>_user_code_warm` in grades per second, and `<language>_user_code_cold` in milliseconds.

    Warm: the jail is up and has run this code before. Cold: from no jail at all to the first grade. A language that
    cannot be kept in on this machine is left out.
    """
    rates: dict[str, float] = {}
    cold_ms: dict[str, float] = {}
    for language, code in CODE.items():
        try:
            cold_ms[f"{language}_user_code_cold"] = statistics.median([await _cold_ms(code) for _ in range(5)])
            rates[f"{language}_user_code_warm"] = await _warm_rate(code, rounds)
        except MoontuneError as error:
            print(f"{language} user code is not measured: {error.message}")
    return rates, cold_ms


async def _warm_rate(code: UserCode, rounds: int) -> float:
    settings = RewardSettings()
    sandbox = Sandbox(settings.sandbox, settings.limits, settings.sandbox_processes)
    reward = SandboxedCode(sandbox, "local", code)
    samples = samples_for(entry_named("matched_iou"), 10, BATCH * CALLS)
    found: list[float] = []
    try:
        for _ in range(rounds + 1):
            started = time.perf_counter()
            await reward.score(samples, {})
            found.append(len(samples) / (time.perf_counter() - started))
    finally:
        await sandbox.close()
    return statistics.median(found[1:])


async def _cold_ms(code: UserCode) -> float:
    """From no process to the first grade: the jail is spawned, confines itself, forks and runs the code."""
    settings = RewardSettings()
    (sample,) = samples_for(entry_named("matched_iou"), 10, 1)
    started = time.perf_counter()
    jail = await Jail.start(code.language, settings.sandbox, settings.limits)
    try:
        await jail.grade(code.source, [sample_to_json(sample, {})])
        return 1e3 * (time.perf_counter() - started)
    finally:
        await jail.close()
