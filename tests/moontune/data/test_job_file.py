import json
from pathlib import Path

import pytest

from moontune.data.job_file import config_from_document, config_to_document, read_job_file
from moontune.errors import InvalidField
from moontune.values.finetune import LoraSettings, LoraTarget
from moontune.values.job import DatasetSource, JobConfig
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from moontune.values.training import LossKind, TrainSettings

SMALL: dict[str, object] = {
    "name": "digits",
    "skill": "detect",
    "train": {"path": "train.json", "object": "digit"},
    "held_out": {"path": "/elsewhere/held.json", "object": "digit"},
    "reward": "detect_f1",
    "steps": 10,
}
FULL = JobConfig(
    name="all",
    skill=Skill.POINT,
    train=DatasetSource("/a.json", "digit", "red"),
    held_out=DatasetSource("/b.json", "digit", "red"),
    reward=RewardSpec(
        (
            RewardComponent("a", 0.5, False, {"threshold": 0.5, "mode": "soft", "strict": True}),
            RewardComponent("b", 1.0, gate=True),
        )
    ),
    steps=3,
    lora=LoraSettings(4, 8.0, (LoraTarget.TEXT_MLP,), 2),
    settings=TrainSettings(loss=LossKind.GRPO, learning_rate=0.003),
    sampling=SamplingSettings(0.7, 1.0, 64, 5),
)


def test_yaml_and_json_say_the_same(tmp_path: Path):
    (tmp_path / "job.json").write_text(json.dumps(SMALL))
    (tmp_path / "job.yaml").write_text(
        "name: digits\nskill: detect\ntrain: {path: train.json, object: digit}\n"
        "held_out: {path: /elsewhere/held.json, object: digit}\nreward: detect_f1\nsteps: 10\n"
    )
    config = read_job_file(tmp_path / "job.json")
    assert config == read_job_file(tmp_path / "job.yaml")
    assert config.train.path == str(tmp_path / "train.json")
    assert config.held_out.path == "/elsewhere/held.json"
    assert config.reward == RewardSpec((RewardComponent("detect_f1"),))
    assert config.sampling.max_tokens == 256, "detect's default"


def test_a_config_survives_its_document():
    assert config_from_document(json.loads(json.dumps(config_to_document(FULL)))) == FULL


def test_every_fault_is_named_at_once():
    bad: dict[str, object] = {
        "skill": "juggle",
        "train": {"path": 3, "object": "digit", "glob": "*"},
        "held_out": [],
        "reward": {"components": [{"weight": "much"}]},
        "steps": 10.5,
        "lora": {"rank": True, "alpha": "high", "targets": ["text_mlp", "all"]},
        "settings": {"lr": 0.1},
    }
    with pytest.raises(InvalidField) as caught:
        config_from_document(bad, "job.yaml")
    assert {violation.field for violation in caught.value.violations} == {
        "name",
        "skill",
        "train.path",
        "train.glob",
        "held_out",
        "reward.components[0].name",
        "reward.components[0].weight",
        "steps",
        "lora.rank",
        "lora.alpha",
        "lora.targets[1]",
        "settings.lr",
    }


def test_values_out_of_range_are_named_at_once(tmp_path: Path):
    file = tmp_path / "job.json"
    wrong = {"steps": 0, "rollouts_per_group": 1, "sampling": {"temperature": 0}, "lora": {"rank": 999}}
    file.write_text(json.dumps({**SMALL, **wrong}))
    with pytest.raises(InvalidField) as caught:
        read_job_file(file)
    assert {violation.field for violation in caught.value.violations} == {
        "config.steps",
        "config.rollouts_per_group",
        "config.sampling.temperature",
        "config.lora.rank",
    }


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.yaml", "a: [1"), ("a.toml", ""), ("a.yaml", "- 1")])
def test_files_that_are_no_config(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidField):
        read_job_file(tmp_path / name)
    with pytest.raises(InvalidField, match="exists"):
        read_job_file(tmp_path / "gone.json")


def test_a_number_that_no_float_holds_is_a_fault():
    with pytest.raises(InvalidField, match="learning_rate"):
        config_from_document({**SMALL, "settings": {"learning_rate": 10**400}})
