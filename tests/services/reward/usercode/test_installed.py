"""Plugins that an operator installed: found by entry point, loaded only where the settings name them."""

import importlib

import pytest

from moontune.serving.settings import StartupError
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.sandbox.verdict import Failure
from services.reward.usercode import plugin

SAMPLES = [
    RewardSample(SkillRequest(Skill.QUERY, question="?"), QueryOutput(text), GroundTruth(answers=("red",)))
    for text in ("red", "boom")
]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A real distribution on the path."""
    (tmp_path / "house_rewards.py").write_text(
        'def score(sample):\n    """House rule."""\n    if sample["output"]["answer"] == "boom":\n'
        '        raise KeyError("boom")\n    return {"reward": 0.5, "components": {"rule": 1.0}}\n'
    )
    folder = tmp_path / "house_rewards-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: house-rewards\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[moontune.rewards]\nhouse = house_rewards:score\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


async def test_a_named_plugin_is_loaded_and_scores(installed):
    info, source = plugin.installed_plugins(["house"])["house"]
    assert (info.name, info.description) == ("house", "House rule.")
    fine, broken = await source.score(SAMPLES, {})
    assert (fine.reward, dict(fine.components)) == (0.5, {"rule": 1.0})
    assert broken.failure is Failure.RAISED and "KeyError" in broken.reason


def test_nothing_is_loaded_unasked_and_a_missing_one_stops_the_start(installed):
    assert plugin.installed_plugins([]) == {}
    with pytest.raises(StartupError, match=r"'other'; installed ones: .*house"):
        plugin.installed_plugins(["other"])
