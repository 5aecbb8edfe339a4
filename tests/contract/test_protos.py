"""The contract itself: linted, formatted, unbroken against its baseline, and the committed stubs are what it gives."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools import generate_protos
from tools.generate_protos import BASELINE, PROTOS, ROOT, differences, generate, sources, tool

FIELD = "string model = 1;"


def buf(*arguments, folder=ROOT):
    return subprocess.run([tool("buf"), *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture
def copy(tmp_path):
    """A copy of the protos and of buf's rules, to be spoilt."""
    shutil.copytree(PROTOS, tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def edit(copy, name, old, new):
    path = copy / "protos/moontune/api" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_protos_are_linted_and_every_part_is_commented():
    result = buf("lint")
    assert (result.returncode, result.stdout) == (0, "")


def test_a_field_without_a_comment_is_seen(copy):
    edit(copy, "common/v1/policy.proto", "  // The base model's name. Never empty.\n", "")
    result = buf("lint", folder=copy)
    assert result.returncode != 0
    assert 'Field "base" should have a non-empty comment' in result.stdout


def test_the_protos_are_formatted():
    result = buf("format", "--diff", "--exit-code")
    assert (result.returncode, result.stdout) == (0, "")


def test_nothing_breaks_the_baseline():
    result = buf("breaking", "--against", str(BASELINE))
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ((FIELD, "string model_name = 1;"), 'changed name from "model" to "model_name"'),
        ((FIELD, "bytes model = 1;"), 'changed type from "string" to "bytes"'),
        ((FIELD, "string model = 15;"), 'Previously present field "1" with name "model" on message "RolloutOrder"'),
    ],
    ids=["renamed", "retyped", "renumbered"],
)
def test_a_broken_field_is_seen(copy, change, complaint):
    edit(copy, "rollout/v1/rollout_service.proto", *change)
    result = buf("breaking", "--against", str(BASELINE), folder=copy)
    assert result.returncode != 0
    assert complaint in result.stdout


def test_a_new_field_breaks_nothing(copy):
    edit(copy, "rollout/v1/rollout_service.proto", FIELD, f"{FIELD}\n  // New.\n  string fresh = 15;")
    assert buf("breaking", "--against", str(BASELINE), folder=copy).returncode == 0


def test_the_stubs_are_current(tmp_path):
    generate(tmp_path)
    assert differences(ROOT, tmp_path) == [], "run `make protos`"


def test_a_stale_stub_is_seen(tmp_path):
    generate(tmp_path)
    stub = "moontune/api/common/v1/policy_pb2.pyi"
    (tmp_path / stub).write_text("")
    (tmp_path / "moontune/api/common/v1/__init__.py").unlink()
    assert differences(ROOT, tmp_path) == ["moontune/api/common/v1/__init__.py", stub]


def test_six_services_and_the_plugin_have_every_rpc():
    """The rpcs of the design, by service: a missing one is a capability nobody can call."""
    rpcs = {
        line.split()[1].partition("(")[0]
        for name in sources()
        for line in (PROTOS / name).read_text().splitlines()
        if line.startswith("  rpc ")
    }
    asked = """
        GenerateRollouts StreamRollouts GetEngineStatus
        Score ScoreStream ListRewards ValidateReward RegisterReward GetSandboxStatus
        CreateFinetune GetFinetune ListFinetunes DeleteFinetune TrainStep ComputeLogprobs LogMetrics ListMetrics
        SaveCheckpoint ListCheckpoints GetCheckpoint DeleteCheckpoint RestoreCheckpoint DownloadAdapter ImportAdapter
        ExportCheckpoint WatchFinetune
        Query Point Detect Caption StreamQuery StreamPoint StreamDetect StreamCaption ListModels
        LoadAdapter UnloadAdapter GetAdapterStatus
        CreateJob GetJob ListJobs CancelJob PauseJob ResumeJob WatchJob ListPresets
        UploadDataset GetDataset ListDatasets DeleteDataset
        DescribeReward ScoreSamples
    """
    assert rpcs == set(asked.split())


def test_the_check_command_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(generate_protos, "differences", lambda committed, fresh: ["moontune/api/x_pb2.py"])
    assert generate_protos.check() == 1
    assert "make protos" in capsys.readouterr().err


def test_generated_code_runs_on_the_floors_that_pyproject_states():
    """protoc bakes its version in; the package's floors must not be below it."""
    generated = (ROOT / "moontune/api/common/v1/policy_pb2.py").read_text()
    assert "# Protobuf Python Version: 6.31.1" in generated
    stubs = (ROOT / "moontune/api/jobs/v1/job_service_pb2_grpc.py").read_text()
    assert "GRPC_GENERATED_VERSION = '1.76.0'" in stubs
    project = Path(ROOT / "pyproject.toml").read_text()
    assert '"protobuf>=6.31.1"' in project
    assert '"grpcio>=1.76.0"' in project
