from collections import Counter
from itertools import pairwise, product

import pytest

from moontune.errors import InvalidField, InvalidState
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.job import DatasetSource, JobConfig, JobState, Schedule
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import DetectOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardComponent, RewardResult, RewardSpec
from moontune.values.rollout import FinishReason, Rollout, RolloutGroup
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings
from services.jobs.attempts import Attempts
from services.jobs.cursor import Cursor, indices
from services.jobs.outlook import outlook_of
from services.jobs.schedule import learning_rate
from services.jobs.states import MOVES, Order, check_move, ordered


def config(steps: int, warmup: int, schedule: Schedule) -> JobConfig:
    return JobConfig(
        name="x",
        skill=Skill.DETECT,
        train=DatasetSource("a"),
        held_out=DatasetSource("b"),
        reward=RewardSpec((RewardComponent("r"),)),
        steps=steps,
        settings=TrainSettings(learning_rate=1.0),
        warmup_steps=warmup,
        schedule=schedule,
    )


def test_linear_schedule_by_hand():
    job = config(6, 2, Schedule.LINEAR)
    assert [learning_rate(job, step) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_constant_schedule_keeps_the_peak_after_the_warm_up():
    job = config(4, 2, Schedule.CONSTANT)
    assert [learning_rate(job, step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_a_warm_up_longer_than_the_job_only_rises():
    rates = [learning_rate(config(3, 10, Schedule.LINEAR), step) for step in range(3)]
    assert rates == [0.1, 0.2, pytest.approx(0.3)]


def test_no_prompt_comes_twice_within_a_pass_and_none_is_left_out():
    cursor, taken = Cursor("j", 0, 0), []
    for _ in range(15):
        chosen = indices(cursor, 4, 10, seed=7)
        taken.extend(chosen)
        cursor = cursor.advanced(4)
    assert cursor == Cursor("j", 15, 60)
    for start in range(0, 60, 10):
        assert sorted(taken[start : start + 10]) == list(range(10))
    assert taken[:10] != taken[10:20]


def test_a_cursor_read_back_takes_the_same_prompts():
    cursor = Cursor("j", 3, 12)
    again = Cursor.from_bytes(cursor.to_bytes())
    assert again == cursor
    assert indices(again, 5, 9, 1) == indices(cursor, 5, 9, 1)
    with pytest.raises(InvalidField):
        Cursor.from_bytes(b"\xff{")


def test_more_groups_than_samples_go_round():
    assert Counter(indices(Cursor("j", 0, 0), 7, 3, 0)).most_common(1)[0][1] == 3


def test_each_order_gives_a_move_of_the_machine_or_is_refused():
    for state, order in product(JobState, Order):
        try:
            after = ordered(state, order)
        except InvalidState as error:
            assert str(state) in error.message
            continue
        assert after is state or after in MOVES[state], (state, order)
        assert ordered(after, order) is after, "an order carried out twice changes nothing"


def test_the_ends_are_ends_and_a_whole_life_is_allowed():
    life = [JobState.QUEUED, JobState.VALIDATING, JobState.RUNNING, JobState.PAUSED, JobState.QUEUED]
    for before, after in pairwise(life):
        check_move(before, after)
    for end in (JobState.SUCCEEDED, JobState.CANCELLED):
        with pytest.raises(InvalidState):
            check_move(end, JobState.RUNNING)
        with pytest.raises(InvalidState):
            ordered(end, Order.RESUME)


def test_the_outlook_counts_dead_and_mixed_groups_apart():
    right, wrong = Box(0.0, 0.0, 0.5, 0.5), Box(0.6, 0.6, 0.9, 0.9)
    request = SkillRequest(Skill.DETECT, object="digit")
    policy = PolicyVersion("toy", "sha256:0")

    def group(*boxes: Box) -> RolloutGroup:
        outputs = [DetectOutput((box,)) for box in boxes]
        return RolloutGroup(
            request, tuple(Rollout(Skill.DETECT, o, (), FinishReason.STOP, policy, 0, 1.0) for o in outputs)
        )

    def results(*rewards: float | None) -> tuple[RewardResult, ...]:
        return tuple(RewardResult(reward) for reward in rewards)

    attempts = Attempts(
        (group(right, wrong), group(wrong, wrong), group(right, right), group(wrong, wrong)),
        (results(1.0, 0.2), results(0.1, 0.2), results(1.0, 1.0), results(0.0, None)),
        0.0,
        0.0,
    )
    outlook = outlook_of(attempts, [GroundTruth(boxes=(right,))] * 4)
    assert (outlook.mixed_share, outlook.dead_share) == (0.25, 0.5)
    assert outlook.reward_mean == pytest.approx(3.5 / 7)
    assert outlook.n_rollouts == 8
    assert "25%" in outlook.advice
