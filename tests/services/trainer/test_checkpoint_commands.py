"""`moontune checkpoints ...` against a real trainer, each command in a process of its own."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moontune.cli.stack.plan import PORT_OFFSETS
from moontune.clients.trainer import TrainerClient
from moontune.values.finetune import Finetune
from tests.services.trainer.process import TrainerProcess
from tests.services.trainer.test_service import step_of, unverified


@pytest.fixture
async def saved(client: TrainerClient, finetune: Finetune) -> Finetune:
    """A finetune with steps 1 to 3 saved."""
    for seed in (1, 2, 3):
        await client.train_step(step_of(finetune, unverified(seed)))
        await client.save_checkpoint(finetune.id)
    return finetune


async def moontune(trainer: TrainerProcess, *arguments: object) -> subprocess.CompletedProcess[str]:
    server = f"127.0.0.1:{trainer.port - PORT_OFFSETS['trainer']}"
    command = [sys.executable, "-m", "moontune.cli", "checkpoints", *map(str, arguments), "--server", server]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )


async def test_list_show_diff_and_prune(trainer: TrainerProcess, client: TrainerClient, saved: Finetune) -> None:
    names = [f"{saved.id}@{step}" for step in (3, 2, 1)]
    listed, shown, compared, planned = await asyncio.gather(
        moontune(trainer, "list", saved.id, "--json"),
        moontune(trainer, "show", names[0]),
        moontune(trainer, "diff", names[2], names[0], "--json"),
        moontune(trainer, "prune", saved.id, "--keep", 1),
    )
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == names
    assert "adapter_digest" in shown.stdout
    assert "grad_norm" in shown.stdout
    rows = {row["what"]: row for row in map(json.loads, compared.stdout.splitlines())}
    moved = [row for name, row in rows.items() if name.endswith("lora_B.weight")]
    assert moved
    assert all(float(row["change"].removesuffix("%")) > 0 for row in moved)
    assert "would delete (--yes does it): steps 2, 1" in planned.stdout
    assert len((await client.list_checkpoints(saved.id)).items) == 3
    done = await moontune(trainer, "prune", saved.id, "--keep", 1, "--yes")
    assert "deleted: steps 2, 1" in done.stdout
    assert [each.step for each in (await client.list_checkpoints(saved.id)).items] == [3]
    store = trainer.data_dir / "checkpoints" / saved.id
    assert [path.name for path in store.iterdir()] == ["00000003"]


@pytest.mark.slow
async def test_export_and_import(
    trainer: TrainerProcess, client: TrainerClient, saved: Finetune, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    exported = await moontune(trainer, "export", f"{saved.id}@2", "--to", out)
    assert f"peft of {saved.id}@2" in exported.stdout, exported.stderr
    imported = await moontune(trainer, "import", out, "--name", f"copy of {saved.id}")
    assert "lora, rank 4, step 0" in imported.stdout, imported.stderr
    wrong, missing, unnamed = await asyncio.gather(
        moontune(trainer, "show", "nothing"),
        moontune(trainer, "show", f"{saved.id}@9"),
        moontune(trainer, "import", tmp_path / "none", "--name", "x"),
    )
    assert (wrong.returncode, missing.returncode, unnamed.returncode) == (1, 1, 1)
    assert "allowed: <finetune id>@<step>" in wrong.stderr
    assert "has no saved checkpoint at step 9" in missing.stderr
    assert "a folder with an adapter's files" in unnamed.stderr
