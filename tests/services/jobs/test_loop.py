import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from moontune.data.predictions import read_predictions
from moontune.errors import InvalidState, JobNotFound, RequestIdReused
from moontune.serving.database import open_database
from moontune.values.job import Job, JobConfig, JobState
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.training import TrainStep, TrainStepResult
from services.jobs import runner as runner_module
from services.jobs.runner import JobRunner, RunnerSettings
from services.jobs.states import Order
from services.jobs.store import JobStore
from tests.services.jobs.toy import ToyPeers, config, dataset

MIGRATIONS = Path(runner_module.__file__).parent / "migrations"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    monkeypatch.setattr(runner_module, "POLL_S", 0.01)
    monkeypatch.setattr(runner_module, "FIRST_PAUSE_S", 0.01)
    engine = open_database(f"sqlite:///{tmp_path}/jobs.db", MIGRATIONS)
    yield JobStore(engine)
    engine.dispose()


async def drive(
    store: JobStore, peers: ToyPeers, folder: Path, until: Callable[[], bool], patience_s: float = 60.0
) -> None:
    """Run a runner until the condition holds, then kill it (tasks cancelled: nothing of them is tidied up)."""
    runner = JobRunner(store, peers, RunnerSettings(folder, patience_s=patience_s))
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(30):
        while not until():  # noqa: ASYNC110  (the condition is in a database)
            await asyncio.sleep(0.005)
    for running in [task, *runner._tasks.values()]:
        running.cancel()
    await asyncio.gather(task, *runner._tasks.values(), return_exceptions=True)


def ended(store: JobStore, job: Job) -> Callable[[], bool]:
    return lambda: store.state(job.id) in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def create(store: JobStore, job_config: JobConfig) -> Job:
    return store.create("local", job_config, "request-1")


async def test_a_job_goes_from_config_to_a_saved_model(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data"))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    job = store.get("local", job.id)
    assert (job.state, job.step, job.detail) == (JobState.SUCCEEDED, 6, "")
    assert job.model == f"toy/{job.finetune_id}@6"
    assert peers.saved == [(job.finetune_id, 6)]
    # The toy answers no below chance 0.5 (steps 0..2) and yes from step 3 on.
    assert job.results["base/exact_match"] == 0.0
    assert job.results["final/exact_match"] == 1.0
    stages = Counter(point.stage for point in store.progress(job.id))
    assert stages["base"] == 1
    assert stages["evaluate"] == 4, "before, after steps 2 and 4, and at the end"
    assert peers.most_at_once >= 5, "all groups of a turn are asked for at once"
    first = read_predictions(tmp_path / "jobs" / job.id / "predictions" / "step-00000000.jsonl")
    assert [prediction.asked for prediction in first] == [f"held{number}?" for number in range(5)]
    assert {prediction.adapter_digest for prediction in first} == {"sha256:a0"}


async def test_rates_and_cursor_travel_with_each_step(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data"))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    peak = job.config.settings.learning_rate
    assert peers.rates[:3] == [pytest.approx(peak / 2), pytest.approx(peak), pytest.approx(peak)]
    assert [json.loads(state or b"")["taken"] for state in peers.states] == [
        2 * (number + 1) for number in range(len(peers.states))
    ]


@pytest.mark.parametrize("kill_after", [1, 2, 3, 5])
async def test_killed_after_any_step_it_repeats_no_prompt_and_loses_no_step(
    store: JobStore, tmp_path: Path, kill_after: int
):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data"))
    # Killed right after the trainer applied the step, before the jobs service could note it.
    killed = asyncio.Event()

    def kill() -> None:
        if len(peers.trained_on) == kill_after:
            killed.set()
            raise asyncio.CancelledError

    peers.after_step = kill
    await drive(store, peers, tmp_path / "jobs", killed.is_set)
    assert store.state(job.id) is JobState.RUNNING
    peers.after_step = lambda: None
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    job = store.get("local", job.id)
    assert (job.state, job.step) == (JobState.SUCCEEDED, 6)
    prompts = [prompt for turn in peers.trained_on for prompt in turn]
    assert max(Counter(prompts[:12]).values()) == 1, "within a pass no prompt comes twice, killed or not"
    assert len(peers.finetunes) == 1


async def test_a_service_away_for_a_while_costs_nothing(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    peers.fail = ["rollouts", "score", "train_step", "get_finetune", "rollouts", "after train_step", "save_checkpoint"]
    job = create(store, config(tmp_path / "data"))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    job = store.get("local", job.id)
    assert (job.state, job.step, job.detail) == (JobState.SUCCEEDED, 6, "")
    assert peers.fail == []
    assert max(Counter(prompt for turn in peers.trained_on for prompt in turn).values()) <= 2


async def test_a_service_away_for_good_fails_the_job_which_can_be_resumed(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    peers.fail = ["score"] * 10_000
    job = create(store, config(tmp_path / "data"))
    await drive(store, peers, tmp_path / "jobs", ended(store, job), patience_s=0.05)
    failed = store.get("local", job.id)
    assert failed.state is JobState.FAILED
    assert "the score call failed" in failed.detail
    peers.fail = []
    store.order("local", job.id, Order.RESUME, "again")
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    assert store.state(job.id) is JobState.SUCCEEDED


async def test_a_job_without_any_signal_ends_and_says_so(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data", reward=RewardSpec((RewardComponent("always_0"),))))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    job = store.get("local", job.id)
    assert (job.state, job.step) == (JobState.SUCCEEDED, 0)
    assert job.detail == "ended at step 0: 20 turns in a row had no signal"
    assert len(peers.trained_on) == 20


async def test_pause_stops_between_two_steps_and_resume_goes_on(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data"))
    peers.after_step = lambda: (
        store.order("local", job.id, Order.PAUSE, "p") and None if len(peers.trained_on) == 2 else None
    )
    runner = JobRunner(store, peers, RunnerSettings(tmp_path / "jobs"))
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(20):
        while store.state(job.id) is not JobState.PAUSED or store.turn(job.id).iteration < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(peers.trained_on) == 2
        store.order("local", job.id, Order.RESUME, "r")
        while not ended(store, job)():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    assert store.state(job.id) is JobState.SUCCEEDED
    assert store.turn(job.id).step == 6


async def test_cancel_ends_a_running_job(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data"))
    peers.after_step = lambda: store.order("local", job.id, Order.CANCEL, "c") and None
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    assert store.state(job.id) is JobState.CANCELLED
    assert len(peers.trained_on) == 1


async def test_bad_data_fails_the_job_with_every_fault(store: JobStore, tmp_path: Path):
    source = dataset(tmp_path / "data", "bad", 2, 1)
    bad = '{"image": "gone.png", "question": "?", "answers": ["yes"]}\n{"image": "../x"}\n'
    Path(source.path).write_text(bad)  # noqa: ASYNC240  (a test's own small file)
    job = create(store, config(tmp_path / "data", train=source))
    await drive(store, ToyPeers(), tmp_path / "jobs", ended(store, job))
    failed = store.get("local", job.id)
    assert failed.state is JobState.FAILED
    assert "line 1" in failed.detail
    assert "line 2" in failed.detail


async def test_a_wrong_reward_fails_the_job_before_a_finetune_is_made_and_names_the_key(
    store: JobStore, tmp_path: Path
):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data", reward=RewardSpec((RewardComponent("typo"),))))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    job = store.get("local", job.id)
    assert (job.state, job.finetune_id, peers.finetunes) == (JobState.FAILED, "", {})
    assert job.detail == "config.reward.components[0].name is 'typo'"


async def test_the_warnings_of_a_rewards_dry_run_are_in_the_history(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data", reward=RewardSpec((RewardComponent("always_0"),))))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    said = [point.message for point in store.progress(job.id) if point.stage == "reward"]
    assert said == ["reward: a flat reward teaches nothing"]
    # Before the finetune on 12 samples, silent; then with the base's attempts at them.
    assert peers.dry_runs == [12, 12]


async def test_the_same_image_on_both_sides_fails_the_job(store: JobStore, tmp_path: Path):
    job = create(store, config(tmp_path / "data", held_out=dataset(tmp_path / "data", "train", 3, 1)))
    await drive(store, ToyPeers(), tmp_path / "jobs", ended(store, job))
    assert "no image that is also in train" in store.get("local", job.id).detail


async def test_the_control_permutes_rewards_over_the_step(store: JobStore, tmp_path: Path):
    seen: list[list[list[tuple[float | None, ...]]]] = []
    for name, shuffled in (("a", False), ("b", True)):
        peers = ToyPeers()
        job = store.create("local", config(tmp_path / name, shuffle_rewards=shuffled, groups_per_step=8, steps=1), name)
        await drive(store, peers, tmp_path / "jobs", ended(store, job))
        seen.append(peers.rewards_seen)
    plain, permuted = ([reward for row in turns[0] for reward in row] for turns in seen)
    assert plain != permuted
    assert sorted(map(str, plain)) == sorted(map(str, permuted))


async def test_somebody_else_training_the_finetune_is_told(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data", steps=10_000))
    await drive(store, peers, tmp_path / "jobs", lambda: len(peers.trained_on) >= 2)
    ((finetune_id, finetune),) = peers.finetunes.items()
    object.__setattr__(finetune, "step", finetune.step + 3)
    peers.finetunes[finetune_id] = finetune
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    assert "somebody else trained it" in store.get("local", job.id).detail


def test_orders_and_requests_are_taken_once(store: JobStore, tmp_path: Path):
    first = config(tmp_path / "data")
    job = store.create("local", first, "same")
    assert store.create("local", first, "same").id == job.id
    with pytest.raises(RequestIdReused):
        store.create("local", config(tmp_path / "data", steps=7), "same")
    assert store.create("other", first, "same").id != job.id
    assert store.order("local", job.id, Order.PAUSE, "p").state is JobState.PAUSED
    assert store.order("local", job.id, Order.RESUME, "r").state is JobState.QUEUED
    assert store.order("local", job.id, Order.PAUSE, "p").state is JobState.QUEUED, "sent again, not carried out again"
    with pytest.raises(RequestIdReused):
        store.order("local", job.id, Order.CANCEL, "p")
    store.order("local", job.id, Order.CANCEL, "c")
    with pytest.raises(InvalidState, match="cancelled cannot be told to resume"):
        store.order("local", job.id, Order.RESUME, "r2")


def test_old_orders_are_forgotten(store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from services.jobs import store as store_module

    job = create(store, config(tmp_path / "data"))
    store.order("local", job.id, Order.PAUSE, "p")
    store.order("local", job.id, Order.RESUME, "r")
    store.forget_old_orders()
    assert store.order("local", job.id, Order.PAUSE, "p").state is JobState.QUEUED, "still remembered"
    later = store_module.time.time() + 7 * 24 * 3600 + 60
    monkeypatch.setattr(store_module.time, "time", lambda: later)
    store.forget_old_orders()
    assert store.order("local", job.id, Order.PAUSE, "p").state is JobState.PAUSED, "a new order"


async def test_the_runner_forgets_old_orders(store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    forgotten: list[bool] = []
    monkeypatch.setattr(store, "forget_old_orders", lambda: forgotten.append(True))
    await drive(store, ToyPeers(), tmp_path / "jobs", lambda: bool(forgotten))


async def test_an_evaluation_cut_by_an_outage_is_made_up_for(store: JobStore, tmp_path: Path):
    peers = ToyPeers()

    def away() -> None:
        if len(peers.trained_on) == 2:  # the next rollouts are those of the evaluation at step 2
            peers.fail = ["rollouts"]

    peers.after_step = away
    job = create(store, config(tmp_path / "data"))
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    evaluated = [point.step for point in store.progress(job.id) if point.stage == "evaluate"]
    assert evaluated == [0, 2, 4, 6]


async def test_a_step_applied_after_the_job_looked_is_counted(store: JobStore, tmp_path: Path):
    peers = ToyPeers()
    job = create(store, config(tmp_path / "data"))
    train_step = peers.train_step
    tries: list[str] = []

    async def answered_to_other_attempts(step: TrainStep) -> TrainStepResult:
        # As if an earlier try with the same id, whose rollouts came out otherwise, ended between our look and this.
        result = await train_step(step)
        tries.append(step.request_id)
        if len(tries) == 1:
            raise RequestIdReused("another payload")
        return result

    peers.train_step = answered_to_other_attempts  # type: ignore[method-assign]
    await drive(store, peers, tmp_path / "jobs", ended(store, job))
    assert (store.get("local", job.id).state, store.get("local", job.id).step) == (JobState.SUCCEEDED, 6)
    assert len(tries) == len(set(tries))


def test_another_organisation_sees_nothing(store: JobStore, tmp_path: Path):
    job = create(store, config(tmp_path / "data"))
    with pytest.raises(JobNotFound):
        store.get("other", job.id)
    with pytest.raises(JobNotFound):
        store.order("other", job.id, Order.CANCEL, "x")
    assert store.list_jobs("other", 10) == []


def test_lists_page_newest_first(store: JobStore, tmp_path: Path):
    job_config = config(tmp_path / "data")
    ids = [store.create("local", job_config, f"r{number}").id for number in range(5)]
    page = store.list_jobs("local", 2)
    rest = store.list_jobs("local", 10, before_id=page[-1].id)
    assert [job.id for job in [*page, *rest]] == sorted(ids, reverse=True)


def test_the_migrations_make_the_tables_of_the_code(tmp_path: Path):
    from services.jobs.tables import METADATA

    engine = open_database(f"sqlite:///{tmp_path}/a.db", MIGRATIONS)
    other = sa.create_engine(f"sqlite:///{tmp_path}/b.db")
    METADATA.create_all(other)
    for table in METADATA.tables:
        made, meant = ({c["name"]: str(c["type"]) for c in sa.inspect(e).get_columns(table)} for e in (engine, other))
        assert made == meant
        indexes = [{i["name"] for i in sa.inspect(e).get_indexes(table)} for e in (engine, other)]
        assert indexes[0] == indexes[1]
    engine.dispose()
    other.dispose()
