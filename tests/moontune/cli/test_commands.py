"""The command line against a real jobs service (its loop over the toy peers)."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from moontune.cli.main import app
from moontune.cli.stack.plan import PORT_OFFSETS, StackOptions, environment_of, plan
from moontune.data.job_file import config_to_document
from moontune.errors import InvalidField
from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import StartupError
from moontune.values.reward import RewardComponent, RewardResult, RewardSample, RewardSpec
from moontune.values.sandbox import SandboxProfile
from services.jobs.config import JobsSettings
from services.jobs.servicer import build_with
from services.reward.config import RewardSettings
from services.reward.servicer import build as build_rewards
from tests.services.jobs.toy import ToyPeers, config


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    settings = JobsSettings(port=0, database=f"sqlite:///{tmp_path}/jobs.db", data_dir=tmp_path / "jobs")

    async def start(chassis):
        await build_with(chassis, settings, ToyPeers())

    async with opened([ServiceApp("jobs", settings, start)]) as [chassis]:
        yield f"127.0.0.1:{chassis.port - PORT_OFFSETS['jobs']}"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


@dataclass(frozen=True)
class Ended:
    exit_code: int
    stdout: str
    stderr: str


async def moontune(*arguments: str) -> Ended:
    """In a process of its own: gRPC wants one event loop a process, and the server's is in this one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moontune.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config_to_document(config(tmp_path / "data"))))
    return file


async def test_train_shows_the_job_to_its_end(server: str, job_file: Path):
    result = await moontune("train", str(job_file), "--server", server)
    assert result.exit_code == 0, result.stderr
    assert "held-out 0.000 at step 0" in result.stdout
    assert "held-out 1.000 at step 6" in result.stdout
    assert "succeeded toy/" in result.stdout
    assert "6/6" in result.stdout


async def test_train_json_and_the_jobs_commands(server: str, job_file: Path):
    result = await moontune("train", str(job_file), "--server", server, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["state"] == "succeeded"
    assert events[-1]["results"]["final/exact_match"] == 1.0
    job_id = events[0]["id"]
    listed = await moontune("jobs", "list", "--server", server, "--json")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == [job_id]
    assert job_id in (await moontune("jobs", "list", "--server", server)).stdout
    shown = json.loads((await moontune("jobs", "show", job_id, "--server", server, "--json")).stdout)
    assert shown["model"].endswith("@6")
    logs = await moontune("jobs", "logs", job_id, "--server", server, "--json", "--after", "2")
    assert json.loads(logs.stdout.splitlines()[0])["sequence"] == 3
    refused = await moontune("jobs", "resume", job_id, "--server", server)
    assert refused.exit_code == 1
    assert "succeeded cannot be told to resume" in refused.stderr


async def test_train_registers_the_code_of_a_file_and_names_its_very_version(tmp_path: Path, job_file: Path):
    """Jobs and rewards as `moontune up` lays them out: two services on ports that follow from one base."""
    code = tmp_path / "my_reward.js"
    code.write_text("const reward = (out, gt) => 1")
    jobs = JobsSettings(port=0, database=f"sqlite:///{tmp_path}/jobs.db", data_dir=tmp_path / "jobs")
    scored: list[RewardSpec] = []

    class Watched(ToyPeers):
        async def score(self, reward: RewardSpec, samples: Sequence[RewardSample]) -> Sequence[RewardResult]:
            scored.append(reward)
            return await super().score(RewardSpec((RewardComponent("exact_match"),)), samples)

    async def start_jobs(chassis: Chassis) -> None:
        await build_with(chassis, jobs, Watched())

    async def start_rewards(chassis: Chassis) -> None:
        await build_rewards(chassis, rewards)

    async with opened([ServiceApp("jobs", jobs, start_jobs)]) as [chassis]:
        base = chassis.port - PORT_OFFSETS["jobs"]
        rewards = RewardSettings(port=base + PORT_OFFSETS["reward"], metrics_port=0, sandbox=SandboxProfile.TRUSTED)
        try:
            async with opened([ServiceApp("reward", rewards, start_rewards)]):
                result = await moontune("train", str(job_file), "--reward", str(code), "--server", f"127.0.0.1:{base}")
        except StartupError as taken:
            pytest.skip(f"the port beside the free one is not free: {taken}")
    assert result.exit_code == 0, result.stderr
    assert {component.name[:10] for spec in scored for component in spec.components} == {"my_reward@"}


async def test_a_failed_job_fails_the_command_in_words(server: str, tmp_path: Path):
    document = config_to_document(config(tmp_path / "data"))
    document["train"] = {"path": str(tmp_path / "gone.json")}
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    result = await moontune("train", str(file), "--server", server)
    assert result.exit_code == 1
    assert "no data set at" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_bad_config_is_told_whole_before_anything_is_called(tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\nskill: detect\nlearning_rate: 1\n")
    result = invoke("train", str(file))
    assert result.exit_code == 1
    for part in ("learning_rate: unknown", "train: missing", "held_out: missing", "reward: missing", "steps: missing"):
        assert part in result.stderr


def test_nobody_there_is_told_in_words():
    result = invoke("jobs", "list", "--server", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "moontune up" in result.stderr
    result = invoke("jobs", "list", "--server", "nonsense")
    assert "host:port-base" in result.stderr
    result = invoke("health", "--server", "127.0.0.1:1", "--gateway", "http://127.0.0.1:1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == dict.fromkeys([*PORT_OFFSETS, "gateway"], False)


def test_a_keys_id_is_whole_on_a_narrow_terminal(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    limits = ("--requests-per-s", "10", "--concurrent", "8", "--storage-gib", "20", "--name", "a name of some length")
    invoke("keys", "create", "--organisation", "acme-corporation", *limits, "--data-dir", str(tmp_path))
    listed = invoke("keys", "list", "--data-dir", str(tmp_path)).stdout
    (key_id,) = [word for word in listed.split() if len(word) == 26]
    assert key_id in invoke("keys", "audit", "--data-dir", str(tmp_path)).stdout
    assert "revoked" in invoke("keys", "revoke", key_id, "--data-dir", str(tmp_path)).stdout


def test_keys_are_made_listed_and_revoked(tmp_path: Path):
    made = invoke("keys", "create", "--organisation", "acme", "--name", "ci", "--data-dir", str(tmp_path))
    assert made.stdout.strip().startswith("mt_")
    listed = invoke("keys", "list", "--data-dir", str(tmp_path)).stdout
    assert "acme" in listed
    assert made.stdout.strip() not in listed
    key_id = next(word for word in listed.split() if len(word) == 26)
    assert "revoked" in invoke("keys", "revoke", key_id, "--data-dir", str(tmp_path)).stdout
    limited = ("--requests-per-s", "5", "--concurrent", "2", "--storage-gib", "1.5")
    kept = invoke("keys", "create", "--organisation", "zeta", *limited, "--data-dir", str(tmp_path)).stdout.strip()
    listed = invoke("keys", "list", "--data-dir", str(tmp_path)).stdout
    assert "5/s, 2 at once, 1.5 GiB" in listed
    key_id = next(line.split()[0] for line in listed.splitlines() if "zeta" in line)
    rotated = invoke("keys", "rotate", key_id, "--data-dir", str(tmp_path)).stdout.strip()
    assert rotated.startswith("mt_")
    assert rotated != kept
    assert invoke("keys", "list", "--data-dir", str(tmp_path)).stdout.count("5/s, 2 at once") == 2
    audit = invoke("keys", "audit", "--organisation", "zeta", "--data-dir", str(tmp_path)).stdout
    assert [line.split()[4:6] for line in audit.splitlines()[1:]] == [
        ["keys", "create"],
        ["keys", "rotate"],
        ["keys", "create"],
    ]
    wrong = invoke("keys", "create", "--scopes", "read,fly", "--data-dir", str(tmp_path))
    assert wrong.exit_code == 1
    assert "read, infer, train, admin" in wrong.stderr


def options(**changes: object) -> StackOptions:
    values = {"base": "moontune-tiny", "data_dir": Path("/data"), "root": Path("/repo"), **changes}
    return StackOptions(**values)  # type: ignore[arg-type]


def test_the_plan_starts_the_called_before_their_callers():
    assert [spec.name for spec in plan(options())] == ["reward", "trainer", "rollout", "inference", "jobs", "gateway"]
    together = plan(options(colocate=("inference", "rollout", "trainer")))
    assert [spec.name for spec in together] == ["rollout+trainer+inference", "reward", "jobs", "gateway"]
    assert together[0].arguments == ("-m", "services", "--colocate", "rollout,trainer,inference")
    assert [listener.port for listener in together[0].listeners] == [7051, 7053, 7054]
    down = plan(options(colocate=("rollout", "inference"), without=("trainer", "jobs")))
    assert [spec.name for spec in down] == ["rollout+inference", "reward", "gateway"]


def test_a_service_colocated_with_nobody_runs_as_without_the_option():
    tokens = {"internal_token": "same"}
    alone, plain = plan(options(colocate=("inference",), **tokens)), plan(options(**tokens))
    assert alone == plain
    (inference,) = [spec for spec in alone if spec.name == "inference"]
    assert inference.arguments == ("-m", "services.inference")


@pytest.mark.parametrize(
    "changes",
    [
        {"colocate": ("gateway",)},
        {"without": ("x",)},
        {"port_base": 0},
        {"colocate": ("trainer",), "without": ("trainer",)},
    ],
)
def test_options_that_cannot_be(changes: dict[str, object]):
    with pytest.raises(InvalidField):
        options(**changes).validate()


@pytest.mark.parametrize("service", ["rollout", "reward", "trainer", "inference", "jobs", "gateway"])
def test_every_service_takes_the_environment_that_up_gives_it(service: str):
    # In a process of its own: the model services' settings may reach libraries that the light half must not import.
    environment = environment_of(options(), service)
    program = (
        "import importlib, json, sys\n"
        f"config = importlib.import_module('services.{service}.config')\n"
        f"settings = getattr(config, '{service.capitalize()}Settings').load([], json.loads(sys.argv[1]))\n"
        "print(settings.port)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(environment)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [environment[f"MOONTUNE_{service.upper()}_PORT"]]


def test_the_command_line_imports_no_torch():
    program = "import sys, moontune.cli.main, services.jobs.servicer; assert not {'torch', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
