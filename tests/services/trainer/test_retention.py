"""What is let go of: which steps, and never the present one."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ulid import ULID

from moontune.checkpoints import MANIFEST_FILE, CheckpointStore
from moontune.checkpoints.folder import read_manifest
from moontune.serving.database import open_database
from moontune.values.finetune import Finetune, LoraSettings
from services.trainer.answers import Answer, Answers
from services.trainer.assembly import MIGRATIONS
from services.trainer.folders import StepFolders
from services.trainer.ledger import Ledger
from services.trainer.retention import KeepRule, Retention, expired_steps
from services.trainer.rows import FinetuneRow, StepRow
from services.trainer.saved import SavedCheckpoints
from services.trainer.saves import Saves
from services.trainer.transactions import Transactions
from services.trainer.turns import Turns
from tests.services.trainer.small_learner import BASE_DIGEST, FIRST, digest_of, write

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rows(count: int, age_hours: float = 0.0, size_bytes: int = 10, expired: int = 0) -> list[StepRow]:
    at = NOW - timedelta(hours=age_hours)
    return [StepRow("f", step, "d", "" if step < expired else f"f/{step}", size_bytes, at) for step in range(count)]


@pytest.mark.parametrize(
    ("held", "present", "rule", "gone"),
    [
        (rows(5), 4, KeepRule(8), []),
        (rows(20), 19, KeepRule(8), []),
        (rows(20, age_hours=25), 19, KeepRule(8), list(range(12))),
        (rows(20), 19, KeepRule(8, size_bytes=50), list(range(7))),
        (rows(20, age_hours=1000), 19, KeepRule(20), []),
        (rows(20, age_hours=25, expired=10), 19, KeepRule(8), [10, 11]),
        (rows(1, age_hours=1000), 0, KeepRule(1, size_bytes=0), []),
        # Restored to step 2: it stays, with the last 7 others.
        (rows(20, age_hours=25), 2, KeepRule(8), [0, 1, *range(3, 13)]),
        (rows(3, age_hours=25), 0, KeepRule(1), [1, 2]),
    ],
)
def test_what_expires(held: list[StepRow], present: int, rule: KeepRule, gone: list[int]) -> None:
    assert sorted(row.step for row in expired_steps(held, present, rule, NOW)) == gone


class NoWorker:
    """No flow of these tests asks the model for anything."""


@dataclass(frozen=True, slots=True)
class Kept:
    ledger: Ledger
    saved: SavedCheckpoints
    store: CheckpointStore
    folders: StepFolders
    retention: Retention

    def finetune(self, name: str) -> Finetune:
        made = Finetune(
            str(ULID()), name, "local", "small", BASE_DIGEST, LoraSettings(4), 0, digest_of(FIRST), NOW, NOW
        )
        folder = self.folders.new_name(made.id, 0)
        written = write(self.folders.path(folder), made, 0, FIRST, None)
        self.ledger.add_finetune(FinetuneRow(made, folder), written.size_bytes, answer(f"create {name}"))
        return made

    def step(self, made: Finetune, number: int, applied_at: datetime) -> StepRow:
        now = self.ledger.finetune("local", made.id).finetune
        folder = self.folders.new_name(made.id, number)
        written = write(self.folders.path(folder), now, number, bytes([number] * 32), None)
        row = StepRow(made.id, number, written.adapter_digest, folder, written.size_bytes, applied_at, parent=now.step)
        self.ledger.commit_step(now, row, answer(f"{made.name} {number}"))
        return row

    def held(self, made: Finetune) -> list[str]:
        return sorted(path.name[:8] for path in (self.folders.path(made.id)).iterdir())


def answer(request_id: str) -> Answer:
    return Answer("local", "any", request_id, "d", {})


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    engine = open_database(f"sqlite:///{tmp_path / 'trainer.db'}", MIGRATIONS)
    transactions, turns = Transactions(engine), Turns()
    ledger, answers, saved = Ledger(transactions), Answers(transactions), SavedCheckpoints(transactions)
    store, folders = CheckpointStore(str(tmp_path / "store")), StepFolders(tmp_path)
    saves = Saves(ledger, answers, saved, store, folders, NoWorker(), turns)
    retention = Retention(ledger, answers, saved, saves, folders, turns, KeepRule(steps=2, hours=1))
    yield Kept(ledger, saved, store, folders, retention)
    engine.dispose()


async def test_a_sweep_reaches_idle_finetunes_and_what_was_never_committed(kept: Kept) -> None:
    idle, young = kept.finetune("idle"), kept.finetune("young")
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    for number in (1, 2, 3):
        kept.step(idle, number, long_ago)
        kept.step(young, number, datetime.now(UTC))
    orphan = kept.folders.new_name(idle.id, 4)
    write(kept.folders.path(orphan), idle, 4, FIRST, None)
    (kept.folders.path(idle.id) / ".00000005-x.partial").mkdir()
    await kept.retention.sweep()
    assert kept.held(idle) == ["00000002", "00000003"]
    assert kept.held(young) == ["00000001", "00000002", "00000003"]  # step 0 is of NOW, long ago
    assert [row.step for row in kept.ledger.steps(idle.id)] == [0, 1, 2, 3]  # names stay taken


async def test_checkpoints_past_their_time_go_and_a_damaged_one_does_not_stop_it(kept: Kept, tmp_path: Path) -> None:
    made = kept.finetune("saved")
    past = datetime.now(UTC) - timedelta(seconds=1)
    for number, expires_at in ((1, past), (2, past), (3, None)):
        row = kept.step(made, number, datetime.now(UTC))
        source, folder = kept.folders.path(row.folder), tmp_path / f"staged-{number}"
        shutil.copytree(source, folder)
        manifest = replace(read_manifest(folder), checkpoint_id=str(ULID()), expires_at=expires_at)
        (folder / MANIFEST_FILE).write_text(manifest.to_json())
        kept.saved.add(kept.store.save(folder).checkpoint(), None, "local")
    (tmp_path / "store" / made.id / "00000001" / MANIFEST_FILE).write_text("{")
    await kept.retention.sweep()
    assert [saved.step for saved in kept.saved.list(made.id, 10)] == [3]
    assert kept.store.steps(made.id) == [3]
    assert kept.held(made)[-1] == "00000003"
