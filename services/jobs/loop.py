"""One job from its config to a served checkpoint. `run_job` is the architecture in a few lines.

Everything before a turn is read from the database and everything after it is written there in one transaction, so
`run_job` may be killed anywhere and called again: it goes on after the last turn that the trainer acknowledged.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from moontune.data.dataset import Dataset
from moontune.errors import InvalidState, RequestIdReused
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.telemetry.names import JobKey, TrainKey, reward_component
from moontune.values.finetune import Finetune
from moontune.values.job import Job, JobState
from moontune.values.training import TrainStep, TrainStepResult
from services.jobs.attempts import Attempts, attempt
from services.jobs.cursor import Cursor, indices
from services.jobs.evaluation import HeldOutScore, evaluate_held_out
from services.jobs.folder import JobFolder
from services.jobs.outlook import PROMPTS, score_base
from services.jobs.peers import Peers
from services.jobs.reward_check import check_reward
from services.jobs.schedule import learning_rate
from services.jobs.store import JobStore, Turn

MOST_DEAD_TURNS = 20
"""A turn whose groups are all dead applies no step; after so many in a row the job ends as it is."""


class Interrupted(Exception):
    """The job was paused or cancelled, or the service stops; nothing is lost."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """What a run of a job works with. stopping: whether the service is about to stop. metrics: where it counts."""

    job: Job
    store: JobStore
    peers: Peers
    folder: JobFolder
    stopping: Callable[[], bool]
    metrics: ServiceMetrics = field(default_factory=ServiceMetrics)


async def run_job(run: JobRun) -> None:
    """Prepare, train, finish. Raises Interrupted, or an error of the tree that says what went wrong."""
    train, held_out = await asyncio.to_thread(run.folder.open_datasets, run.job.config)
    if not run.job.finetune_id:  # before anything is made that a wrong config would leave behind
        await check_reward(run.peers, run.job.config, train)
    finetune = await _finetune(run)
    await _look_before(run, finetune, train, held_out)
    await _move(run, JobState.RUNNING)
    turn = await _synchronised(run, finetune.id)
    dead = 0
    while turn.step < run.job.config.steps and dead < MOST_DEAD_TURNS:
        await _check_interrupted(run, JobState.RUNNING)
        # Before the turn, so that an evaluation cut by an interruption is made up for.
        await _evaluate_when_due(run, finetune, held_out, turn)
        before, turn = turn, await _take_turn(run, finetune, train, turn)
        dead = 0 if turn.step > before.step else dead + 1
    await _finish(run, finetune, held_out, turn)


async def _finetune(run: JobRun) -> Finetune:
    """The job's finetune, made at the first call."""
    config = run.job.config
    finetune = await run.peers.create_finetune(
        f"{config.name[:96]} {run.job.id}", config.lora, request_id=f"{run.job.id}:create"
    )
    await asyncio.to_thread(run.store.set_finetune, run.job.id, finetune.id)
    return finetune


async def _look_before(run: JobRun, finetune: Finetune, train: Dataset, held_out: Dataset) -> None:
    """Score the untrained policy on training prompts and on the held-out set, once in a job's life."""
    if run.folder.predictions_file(0).exists():
        return
    await _check_interrupted(run, JobState.VALIDATING)
    stride = max(1, len(train) // PROMPTS)
    samples = [train[index] for index in range(0, len(train), stride)][:PROMPTS]
    outlook = await score_base(run.peers, run.job.config, _model(finetune, 0), samples)
    await _record(run, "base", outlook.advice, outlook.metrics)
    for warning in outlook.warnings:
        await _record(run, "reward", f"reward: {warning}", {})
    await _check_interrupted(run, JobState.VALIDATING)
    await _evaluate(run, finetune, held_out, step=0)


async def _synchronised(run: JobRun, finetune_id: str) -> Turn:
    """Where to go on. A step that the trainer has and we did not note is the turn in flight when we were killed."""
    turn = await asyncio.to_thread(run.store.turn, run.job.id)
    trained = (await run.peers.get_finetune(finetune_id)).step
    if trained == turn.step:
        return turn
    if trained != turn.step + 1:
        raise InvalidState(
            f"finetune {finetune_id} is at step {trained}, the job left it at {turn.step}: somebody else trained it",
            metadata={"finetune_id": finetune_id},
        )
    turn = Turn(turn.iteration + 1, trained)
    await _record(run, "train", "the step in flight at the interruption had been applied", {}, turn)
    return turn


async def _take_turn(run: JobRun, finetune: Finetune, train: Dataset, turn: Turn) -> Turn:
    """Attempts, rewards, one step, one line of history."""
    config = run.job.config
    cursor = Cursor(run.job.id, turn.iteration, turn.iteration * config.groups_per_step)
    numbers = indices(cursor, config.groups_per_step, len(train), config.seed)
    samples = await asyncio.to_thread(lambda: [train[number] for number in numbers])
    attempts = await attempt(run.peers, config, _model(finetune, turn.step), samples, turn.iteration)
    started = time.monotonic()
    settings = dataclasses.replace(config.settings, learning_rate=learning_rate(config, turn.step))
    step = TrainStep(
        finetune_id=finetune.id,
        request_id=f"{run.job.id}:turn:{turn.iteration}",
        groups=attempts.rl_groups((config.seed, turn.iteration) if config.shuffle_rewards else None),
        settings=settings,
        expected_step=turn.step,
        client_state=cursor.advanced(config.groups_per_step).to_bytes(),
    )
    try:
        result = await run.peers.train_step(step)
    except RequestIdReused:
        # This turn's step was answered before, to attempts that came out otherwise: its prompts are spent. Applied or
        # not, the trainer knows (an earlier try may have been applied after we looked).
        trained = (await run.peers.get_finetune(finetune.id)).step
        after = Turn(turn.iteration + 1, trained)
        await _record(run, "train", "this turn's step was answered before the interruption", {}, after)
        return after
    after = Turn(turn.iteration + 1, result.step)
    metrics = _turn_metrics(attempts, result, settings.learning_rate, time.monotonic() - started)
    run.metrics.counter(names.JOB_STEPS).inc(after.step - turn.step)
    for phase in (JobKey.ROLLOUT_SECONDS, JobKey.REWARD_SECONDS, JobKey.TRAIN_SECONDS):
        run.metrics.histogram(names.JOB_PHASE_SECONDS, phase=phase.removeprefix("seconds_")).observe(metrics[phase])
    await _record(run, "train", "" if result.applied else f"no step: {result.reason}", metrics, after)
    return after


def _turn_metrics(attempts: Attempts, result: TrainStepResult, rate: float, train_s: float) -> dict[str, float]:
    parts: dict[str, list[float]] = {}
    for results in attempts.results:
        for graded in results:
            for name, value in graded.components.items():
                parts.setdefault(reward_component(name), []).append(value)
    rewards = attempts.rewards or [0.0]
    return {
        TrainKey.REWARD_MEAN: sum(rewards) / len(rewards),
        TrainKey.DEAD_GROUP_SHARE: attempts.dead_share,
        **{name: sum(values) / len(values) for name, values in parts.items()},
        **result.metrics,
        JobKey.PARSE_RATE: attempts.parse_rate,
        TrainKey.LEARNING_RATE: rate,
        TrainKey.N_ROLLOUTS: float(sum(len(group.rollouts) for group in attempts.groups)),
        JobKey.ROLLOUT_SECONDS: attempts.rollout_s,
        JobKey.REWARD_SECONDS: attempts.reward_s,
        JobKey.TRAIN_SECONDS: train_s,
    }


async def _evaluate_when_due(run: JobRun, finetune: Finetune, held_out: Dataset, turn: Turn) -> None:
    every = run.job.config.evaluate_every
    if every and turn.step % every == 0 and 0 < turn.step < run.job.config.steps:
        await _evaluate(run, finetune, held_out, turn.step)


async def _evaluate(run: JobRun, finetune: Finetune, held_out: Dataset, step: int) -> HeldOutScore | None:
    """Held-out answers at a step, kept and noted; None if that was done before an interruption."""
    if run.folder.predictions_file(step).exists():
        return None
    score = await evaluate_held_out(run.peers, run.job.config, _model(finetune, step), held_out)
    await _record(run, "evaluate", "", score.metrics)
    # The file comes last: where it is, the figures are noted too.
    await asyncio.to_thread(run.folder.write_predictions, step, score.predictions)
    return score


async def _finish(run: JobRun, finetune: Finetune, held_out: Dataset, turn: Turn) -> None:
    """Evaluate, save, and note the end."""
    await _check_interrupted(run, JobState.RUNNING)
    await _evaluate(run, finetune, held_out, turn.step)
    results = await asyncio.to_thread(_results, run)
    cursor = Cursor(run.job.id, turn.iteration, turn.iteration * run.job.config.groups_per_step)
    checkpoint = await run.peers.save_checkpoint(
        finetune.id, turn.step, f"{run.job.id}:save:{turn.step}", cursor.to_bytes()
    )
    model = _model(finetune, checkpoint.step)
    short = turn.step < run.job.config.steps
    note = f"ended at step {turn.step}: {MOST_DEAD_TURNS} turns in a row had no signal" if short else ""
    await _record(run, "save", f"saved as {model}", {})
    await _move(run, JobState.SUCCEEDED, detail=note, model=model, results=results)


def _results(run: JobRun) -> dict[str, float]:
    """Figures of the whole job from its history: held-out before and after, attempts made, seconds worked."""
    results: dict[str, float] = {TrainKey.N_ROLLOUTS: 0.0, JobKey.SECONDS: 0.0}
    after = 0
    while points := run.store.progress(run.job.id, after):
        after = points[-1].sequence
        for point in points:
            seconds = [JobKey.ROLLOUT_SECONDS, JobKey.REWARD_SECONDS, JobKey.TRAIN_SECONDS, JobKey.EVALUATE_SECONDS]
            results[JobKey.SECONDS] += sum(point.metrics.get(name, 0.0) for name in seconds)
            if point.stage == "train":
                results[TrainKey.N_ROLLOUTS] += point.metrics.get(TrainKey.N_ROLLOUTS, 0.0)
            if point.stage == "base":
                results[JobKey.MIXED_GROUP_SHARE] = point.metrics[JobKey.MIXED_GROUP_SHARE]
            if point.stage == "evaluate":
                side = JobKey.BASE if point.step == 0 else JobKey.FINAL
                results |= {f"{side}/{n.partition('/')[2]}": v for n, v in point.metrics.items() if "/" in n}
    return results


async def _check_interrupted(run: JobRun, expected: JobState) -> None:
    if run.stopping() or await asyncio.to_thread(run.store.state, run.job.id) is not expected:
        raise Interrupted


async def _move(
    run: JobRun, state: JobState, detail: str = "", model: str | None = None, results: dict[str, float] | None = None
) -> None:
    """Move on (nothing to do when it is there already), unless an order came in between."""
    if await asyncio.to_thread(run.store.state, run.job.id) is state:
        return
    try:
        await asyncio.to_thread(run.store.move, run.job.id, state, detail=detail, model=model, results=results)
    except InvalidState:
        raise Interrupted from None


async def _record(run: JobRun, stage: str, message: str, metrics: dict[str, float], turn: Turn | None = None) -> None:
    await asyncio.to_thread(run.store.record, run.job, stage, message, metrics, turn)


def _model(finetune: Finetune, step: int) -> str:
    return f"{finetune.base}/{finetune.id}@{step}"
