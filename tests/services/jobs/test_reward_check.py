"""A reward is tried before anything is made: through a real reward service, the config's keys in the error."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image as Pil

from moontune.clients.reward import RewardClient
from moontune.data.dataset import Dataset, import_dataset
from moontune.errors import InvalidField, RewardNotFound
from moontune.serving.server import ServiceApp, opened
from moontune.values.job import DatasetSource
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.skill import Skill
from services.jobs.reward_check import check_reward
from services.reward.config import RewardSettings
from services.reward.servicer import build
from tests.services.jobs.toy import ToyPeers, config


class Peers(ToyPeers):
    """The toys, but with the real reward service."""

    def __init__(self, client: RewardClient) -> None:
        super().__init__()
        self._client = client

    async def dry_run(self, reward, groups):
        return await self._client.validate(reward, groups)


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    settings = RewardSettings(port=0)

    async def start(chassis):
        await build(chassis, settings)

    async with (
        opened([ServiceApp("reward", settings, start)]) as [chassis],
        RewardClient(f"127.0.0.1:{chassis.port}") as client,
    ):
        yield Peers(client)


def labelled(folder: Path, skill: Skill, **labels: object) -> Dataset:
    Pil.new("RGB", (8, 8)).save(folder / "0.png")
    file = folder / "samples.jsonl"
    file.write_text(json.dumps({"image": "0.png", "object": "cup", "question": "how many?", **labels}))
    return import_dataset(DatasetSource(str(file)), skill, folder / "imported.jsonl")


def order(folder: Path, *components: RewardComponent):
    return config(folder / "data", reward=RewardSpec(components))


async def test_a_reward_that_fits_passes(peers: Peers, tmp_path: Path):
    train = labelled(tmp_path, Skill.DETECT, boxes=[[0, 0, 1, 1]])
    # Lengths can be scored: the empty answer has none.
    await check_reward(peers, order(tmp_path, RewardComponent("giou"), RewardComponent("soft_overlong")), train)
    masks = labelled(tmp_path, Skill.POINT, masks=[{"path": "M 0 0 L 1 0 L 1 1 Z"}])
    await check_reward(peers, order(tmp_path, RewardComponent("point_in_mask")), masks)


async def test_faults_name_the_configs_keys(peers: Peers, tmp_path: Path):
    train = labelled(tmp_path, Skill.DETECT, boxes=[[0, 0, 1, 1]])
    with pytest.raises(RewardNotFound) as unknown:
        await check_reward(peers, order(tmp_path, RewardComponent("iou"), RewardComponent("uoi")), train)
    assert unknown.value.violations[0].field == "config.reward.components[1].name"
    assert "config.reward.components[1].name is 'uoi'" in unknown.value.message
    with pytest.raises(InvalidField) as beyond:
        await check_reward(peers, order(tmp_path, RewardComponent("soft_f_beta", parameters={"beta": 0.0})), train)
    assert beyond.value.violations[0].field == "config.reward.components[0].parameters.beta"
    assert "0.1 to 10" in beyond.value.message


async def test_labels_that_the_reward_does_not_read_are_told_with_the_sample(peers: Peers, tmp_path: Path):
    train = labelled(tmp_path, Skill.POINT, points=[[0.5, 0.5]])
    with pytest.raises(InvalidField, match=r"config.reward \(tried on config.train, groups\[0\].*allowed: boxes for"):
        await check_reward(peers, order(tmp_path, RewardComponent("point_in_box")), train)


async def test_labels_that_no_metric_reads_are_refused(peers: Peers, tmp_path: Path):
    train = labelled(tmp_path, Skill.QUERY, boxes=[[0, 0, 1, 1]])
    with pytest.raises(InvalidField, match="answers: what held-out query is judged by"):
        await check_reward(peers, order(tmp_path, RewardComponent("matched_iou")), train)
