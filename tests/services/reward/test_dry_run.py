"""The dry run's figures by hand, and the warnings that a person must get."""

import pytest

from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus
from moontune.values.reward_report import SampleGroup
from moontune.values.skill import Skill
from services.reward.catalogue import CATALOGUE
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.parameters import Parameters
from services.reward.dry_run import dry_run


def group(*answers, reference="red") -> SampleGroup:
    request = SkillRequest(Skill.QUERY, question="Which colour?")
    return SampleGroup(request, tuple(QueryOutput(answer) for answer in answers), GroundTruth(answers=(reference,)))


async def test_the_figures():
    report = await dry_run(None, [group("red", "blue"), group("red", "Red."), group("green", "")])
    assert report.samples == 6
    assert report.parse_rate == pytest.approx(5 / 6)
    assert report.failed_rate == 0.0
    assert report.mean == pytest.approx(0.5)
    assert report.std == pytest.approx(0.5)
    assert report.dead_group_share == pytest.approx(2 / 3)
    assert report.seconds_per_grade > 0.0
    rewards = [one.result.reward for one in report.examples]
    assert rewards == sorted(rewards)
    assert (rewards[0], rewards[-1], len(rewards)) == (0.0, 1.0, 5)


async def test_a_flat_reward_and_dead_groups_are_named():
    assert "flat" in (await dry_run(None, [group("blue", "green")] * 3)).warnings[0]
    mostly = [group("blue", "green")] * 4 + [group("red", "blue")]
    assert "80% of the groups" in (await dry_run(None, mostly)).warnings[0]


async def test_failed_grades_are_counted_and_shown_first(monkeypatch):
    def sometimes(sample, parameters):
        if sample.output.answer == "boom":
            raise ValueError("boom")
        return 0.5

    monkeypatch.setitem(
        CATALOGUE, "exact_match", Entry("exact_match", "", "", (Skill.QUERY,), (Label.ANSWERS,), Parameters, sometimes)
    )
    report = await dry_run(None, [group("boom", "red")])
    assert report.failed_rate == 0.5
    assert (report.mean, report.std, report.dead_group_share) == (0.5, 0.0, 1.0)
    assert report.examples[0].result.status is ParseStatus.FAILED
    assert "1 of 2 grades failed" in report.warnings[0]
    assert (await dry_run(None, [group("boom")])).warnings == ("Every grade failed: the examples say why.",)
