"""The database: migrations make the tables of the code, rows belong to organisations, commits compare and set."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from moontune.errors import FinetuneExists, FinetuneNotFound, RequestIdReused, StepMismatch
from moontune.serving.database import open_database
from moontune.values.finetune import Finetune, LoraSettings
from services.trainer import tables
from services.trainer.ledger import Answer, Ledger
from services.trainer.rows import FinetuneRow, StepRow
from services.trainer.servicer import MIGRATIONS

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
FINETUNE = Finetune(
    "01HZZZZZZZZZZZZZZZZZZZZZZZ", "f", "acme", "tiny", "sha256:0", LoraSettings(4, alpha=2.5), 0, "sha256:a", NOW, NOW
)


def answer(request_id: str, digest: str = "d", rpc: str = "TrainStep") -> Answer:
    return Answer("acme", rpc, request_id, digest, {"step": 1})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(open_database(f"sqlite:///{tmp_path / 'trainer.db'}", MIGRATIONS))
    ledger.add_finetune(FinetuneRow(FINETUNE, "f/0"), 10, answer("create", rpc="CreateFinetune"))
    yield ledger
    ledger.engine.dispose()


def test_migrations_make_the_tables_of_the_code(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), tables.METADATA)
    assert [change for change in found if "alembic_version" not in str(change)] == []
    assert all("organisation" in table.c for table in tables.METADATA.tables.values())


def test_sqlite_is_synchronous_to_the_disk(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"


def test_rows_belong_to_an_organisation(ledger: Ledger) -> None:
    assert ledger.finetune("acme", FINETUNE.id) == FinetuneRow(FINETUNE, "f/0")
    with pytest.raises(FinetuneNotFound):
        ledger.finetune("other", FINETUNE.id)
    assert ledger.named("other", "f") is None
    assert ledger.list_finetunes("other", 10) == []
    assert ledger.replay("other", "CreateFinetune", "create", "x") is None
    with pytest.raises(FinetuneExists):
        ledger.add_finetune(FinetuneRow(replace(FINETUNE, id="01HZZZZZZZZZZZZZZZZZZZZZZY"), "g/0"), 1, answer("c2"))


def test_a_commit_compares_and_sets_and_holds_its_answer(ledger: Ledger) -> None:
    step = StepRow(FINETUNE.id, 1, "sha256:b", "f/1", 20, NOW, {"reward_mean": 0.5})
    ledger.commit_step(FINETUNE, step, answer("one"))
    moved = ledger.finetune("acme", FINETUNE.id)
    assert (moved.finetune.step, moved.finetune.adapter_digest, moved.folder) == (1, "sha256:b", "f/1")
    assert ledger.step(FINETUNE.id, 1) == step
    assert ledger.replay("acme", "TrainStep", "one", "d") == {"step": 1}
    with pytest.raises(RequestIdReused):
        ledger.replay("acme", "TrainStep", "one", "other")
    with pytest.raises(StepMismatch):
        ledger.commit_step(FINETUNE, replace(step, folder="f/1b"), answer("two"))
    assert ledger.replay("acme", "TrainStep", "two", "d") is None
    assert ledger.folders() == {"f/0", "f/1"}


def test_a_commit_that_fails_half_way_is_not_there(ledger: Ledger) -> None:
    ledger.remember(answer("taken"))
    step = StepRow(FINETUNE.id, 1, "sha256:b", "f/1", 20, NOW)
    with pytest.raises(sa.exc.IntegrityError):
        ledger.commit_step(FINETUNE, step, answer("taken"))  # the answer, its last statement, cannot be stored
    assert ledger.finetune("acme", FINETUNE.id).finetune.step == 0
    assert ledger.folders() == {"f/0"}


def test_a_restore_drops_the_later_steps(ledger: Ledger) -> None:
    now = FINETUNE
    for number in (1, 2, 3):
        row = StepRow(now.id, number, f"sha256:{number}", f"f/{number}", 20, NOW, {"loss": 1.0})
        ledger.commit_step(now, row, answer(f"s{number}"))
        now = ledger.finetune("acme", now.id).finetune
    gone = ledger.commit_restore(now, StepRow(now.id, 1, "sha256:1", "f/1-again", 20, NOW), answer("restore"))
    assert sorted(gone) == ["f/1", "f/2", "f/3"]
    assert [row.step for row in ledger.steps(now.id)] == [0, 1]
    assert ledger.finetune("acme", now.id).folder == "f/1-again"
    assert ledger.recent_digests(now.id, 8) == {0: "sha256:a", 1: "sha256:1"}


def test_answers_are_forgotten_after_a_week(ledger: Ledger) -> None:
    with ledger.engine.begin() as connection:
        old = datetime.now(UTC) - timedelta(days=7, minutes=1)
        connection.execute(sa.update(tables.requests).values(created_at=old))
    ledger.remember(answer("young"))
    ledger.forget_old_answers()
    assert ledger.replay("acme", "CreateFinetune", "create", "d") is None
    assert ledger.replay("acme", "TrainStep", "young", "d") is not None
