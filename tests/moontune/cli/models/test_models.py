"""`moontune models ...` as a user runs it: in a process of its own, against a hub on the loopback interface."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from moontune.checkpoints.safetensors_header import read_header
from moontune.errors import CheckpointCorrupt
from moontune.model.base_folders import BASES
from moontune.model.verify import problems_of
from tests.fakes.tiny_base import byte_tokenizer, write_tiny_base
from tests.moontune.cli.models.fake_hub import COMMIT, FakeHub, serving

WEIGHTS = save({"model.text.wte": torch.arange(26 * 2**18, dtype=torch.float32)})
"""26 MiB, so that a cut leaves whole blocks of huggingface_hub's behind."""
TOKENIZER = byte_tokenizer().to_str().encode()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    repositories = {
        "vikhyatk/moondream2": {"model.safetensors": WEIGHTS, "tokenizer.json": b"stale", "README.md": b"hello"},
        "moondream/starmie-v1": {"tokenizer.json": TOKENIZER},
    }
    with serving(FakeHub(repositories)) as running:
        yield running


def command(folder: Path, url: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MOONTUNE_MODELS_DIR": str(folder / "models"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    return [sys.executable, "-m", "moontune.cli", "models", *arguments], environment


def run(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line, environment = command(folder, url, *arguments)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_a_cut_pull_is_continued_and_checked(tmp_path: Path, hub: FakeHub) -> None:
    hub.stall_after = 16 << 20
    line, environment = command(tmp_path, hub.url, "pull", "moondream2")
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cut:
        deadline = time.monotonic() + 90
        while not any(path.stat().st_size >= 5 << 20 for path in tmp_path.rglob("*.part")):
            assert time.monotonic() < deadline
            assert cut.poll() is None
            time.sleep(0.05)
        cut.kill()
    hub.stall_after = None
    assert not (tmp_path / "models" / "moondream2").exists()

    ended = run(tmp_path, hub.url, "pull", "moondream2")
    assert ended.returncode == 0, ended.stderr
    assert "licence Apache-2.0" in ended.stdout
    starts = [int(each.partition(":")[2]) for each in hub.ranges if each.startswith("model.safetensors")]
    assert starts[0] == 0
    assert starts[-1] >= 5 << 20  # not from the beginning again
    folder = tmp_path / "models" / "moondream2"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "pulled.json",
        "tokenizer.json",
    }
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "tokenizer.json").read_bytes() == TOKENIZER  # not the stale one
    record = json.loads((folder / "pulled.json").read_text())
    assert record["source"] == f"vikhyatk/moondream2@{COMMIT}"
    assert record["files"]["model.safetensors"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()

    fetched = len(hub.ranges)
    assert run(tmp_path, hub.url, "pull", "moondream2").returncode == 0
    assert len(hub.ranges) == fetched  # it is there

    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    verified = run(tmp_path, hub.url, "verify", "moondream2")
    assert verified.returncode == 1
    assert "model.safetensors has SHA-256" in verified.stdout
    assert "text.blocks.0.attn.qkv.weight is missing" in verified.stdout


def test_a_file_that_is_not_what_the_hub_says_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    hub.claimed["model.safetensors"] = "ab" * 32
    ended = run(tmp_path, hub.url, "pull", "moondream2")
    assert ended.returncode == 1
    assert f"came with digest {hashlib.sha256(WEIGHTS).hexdigest()}; the hub says {'ab' * 32}" in ended.stderr
    assert not (tmp_path / "models" / "moondream2").exists()


def test_without_a_hub_the_way_is_explained_and_a_carried_folder_works(tmp_path: Path) -> None:
    ended = run(tmp_path, "http://127.0.0.1:9", "pull", "moondream3-preview")
    assert ended.returncode == 1
    assert "moontune models pull moondream3-preview --from FOLDER" in ended.stderr.replace("\n", " ")
    assert "BSL 1.1" in ended.stdout
    assert "derivatives too" in ended.stdout

    carried = tmp_path / "carried"
    carried.mkdir()
    (carried / "model.safetensors").write_bytes(WEIGHTS[:-5])
    (carried / "tokenizer.json").write_bytes(TOKENIZER)
    ended = run(tmp_path, "http://127.0.0.1:9", "pull", "moondream2", "--from", str(carried))
    assert ended.returncode == 1
    assert "its header speaks of" in ended.stderr
    (carried / "model.safetensors").write_bytes(WEIGHTS)
    ended = run(tmp_path, "http://127.0.0.1:9", "pull", "moondream2", "--from", str(carried))
    assert ended.returncode == 0, ended.stderr
    assert (carried / "model.safetensors").exists()
    listed = [json.loads(line) for line in run(tmp_path, "", "list", "--json").stdout.splitlines()]
    assert {row["base"]: (row["licence"], row["here"]) for row in listed} == {
        "moontune-tiny": ("Apache-2.0", True),
        "moondream2": ("Apache-2.0", True),
        "moondream3-preview": ("BSL 1.1", False),
    }
    assert json.loads((tmp_path / "models" / "moondream2" / "config.json").read_text())["text"]["layers"] == 24
    shown = json.loads(run(tmp_path, "", "show", "moondream2", "--json").stdout)
    assert shown["from"] == str(carried)
    assert shown["licence"] == "Apache-2.0"


def test_a_folder_that_lacks_files(tmp_path: Path) -> None:
    ended = run(tmp_path, "", "pull", "moondream2", "--from", str(tmp_path))
    assert ended.returncode == 1
    assert "it lacks safetensors weights and tokenizer.json" in ended.stderr


def test_the_command_line_never_loads_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from moontune.cli.main import app;"
        "CliRunner().invoke(app, ['models', 'list']); CliRunner().invoke(app, ['models', 'show', 'moontune-tiny']);"
        "assert 'torch' not in sys.modules and 'peft' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr


def test_verify_looks_at_every_value(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "base")
    assert problems_of(folder) == []
    state = {name: torch.zeros(2) for name in ("text.extra",)}
    (folder / "model.safetensors").write_bytes(save(state))
    (problem,) = problems_of(folder)
    assert "text.wte is missing" in problem
    assert "text.extra is not a parameter" in problem
    shutil.copyfile(BASES / "moontune-tiny" / "model.safetensors", folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    assert len(problems_of(folder)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"garbage", (2**60).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]", WEIGHTS[:4000]]
)
def test_headers_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointCorrupt):
        read_header(tmp_path / "model.safetensors")


def test_a_header_is_what_the_formats_own_library_wrote(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(WEIGHTS)
    (tensor,) = read_header(tmp_path / "x.safetensors").values()
    assert (tensor.dtype, tensor.shape, tensor.size_bytes) == ("F32", (26 * 2**18,), 26 * 2**20)
