"""The database: migrations make the tables of the code, rows belong to organisations, commits compare and set."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from moontune.errors import (
    CheckpointCorrupt,
    FinetuneExists,
    FinetuneNotFound,
    RequestIdReused,
    StepMismatch,
    Unavailable,
)
from moontune.serving.database import migrate, open_database, open_engine
from moontune.values.finetune import Finetune, LoraSettings
from services.trainer import tables
from services.trainer.answers import Answer, Answers
from services.trainer.assembly import MIGRATIONS
from services.trainer.ledger import Ledger, Placed
from services.trainer.line import Line
from services.trainer.rows import FinetuneRow, StepRow, finetune_columns
from services.trainer.transactions import Transactions

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
FINETUNE = Finetune(
    "01HZZZZZZZZZZZZZZZZZZZZZZZ", "f", "acme", "tiny", "sha256:0", LoraSettings(4, alpha=2.5), 0, "sha256:a", NOW, NOW
)

ROW = FinetuneRow(FINETUNE, "f/0")


def answer(request_id: str, digest: str = "d", rpc: str = "TrainStep") -> Answer:
    return Answer("acme", rpc, request_id, digest, {"step": 1})


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    url = f"sqlite:///{tmp_path / 'trainer.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_database(url, MIGRATIONS)
    yield engine
    engine.dispose()


@pytest.fixture
def answers(engine: sa.Engine) -> Answers:
    return Answers(Transactions(engine))


@pytest.fixture
def ledger(engine: sa.Engine) -> Ledger:
    ledger = Ledger(Transactions(engine))
    ledger.add_finetune(FinetuneRow(FINETUNE, "f/0"), 10, answer("create", rpc="CreateFinetune"))
    return ledger


def test_migrations_make_the_tables_of_the_code(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), tables.METADATA)
    assert [change for change in found if "alembic_version" not in str(change)] == []
    assert all("organisation" in table.c for table in tables.METADATA.tables.values())


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_sqlite_is_synchronous_to_the_disk(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"


def test_rows_belong_to_an_organisation(ledger: Ledger, answers: Answers) -> None:
    assert ledger.finetune("acme", FINETUNE.id) == FinetuneRow(FINETUNE, "f/0")
    with pytest.raises(FinetuneNotFound):
        ledger.finetune("other", FINETUNE.id)
    assert ledger.named("other", "f") is None
    assert ledger.list_finetunes("other", 10) == []
    assert answers.replay("other", "CreateFinetune", "create", "x") is None
    with pytest.raises(FinetuneExists):
        ledger.add_finetune(FinetuneRow(replace(FINETUNE, id="01HZZZZZZZZZZZZZZZZZZZZZZY"), "g/0"), 1, answer("c2"))


def test_a_commit_compares_and_sets_and_holds_its_answer(ledger: Ledger, answers: Answers) -> None:
    step = StepRow(FINETUNE.id, 1, "sha256:b", "f/1", 20, NOW, {"reward_mean": 0.5})
    ledger.commit_step(FINETUNE, step, answer("one"))
    moved = ledger.finetune("acme", FINETUNE.id)
    assert (moved.finetune.step, moved.finetune.adapter_digest, moved.folder) == (1, "sha256:b", "f/1")
    assert ledger.step(FINETUNE.id, 1) == step
    assert answers.replay("acme", "TrainStep", "one", "d") == {"step": 1}
    with pytest.raises(RequestIdReused):
        answers.replay("acme", "TrainStep", "one", "other")
    with pytest.raises(StepMismatch):
        ledger.commit_step(FINETUNE, replace(step, folder="f/1b"), answer("two"))
    assert answers.replay("acme", "TrainStep", "two", "d") is None
    assert ledger.folders() == {"f/0", "f/1"}


def test_a_commit_that_fails_half_way_is_not_there(ledger: Ledger, answers: Answers) -> None:
    answers.remember(answer("taken"))
    step = StepRow(FINETUNE.id, 1, "sha256:b", "f/1", 20, NOW)
    with pytest.raises(sa.exc.IntegrityError):
        ledger.commit_step(FINETUNE, step, answer("taken"))  # the answer, its last statement, cannot be stored
    assert ledger.finetune("acme", FINETUNE.id).finetune.step == 0
    assert ledger.folders() == {"f/0"}


def trained(ledger: Ledger, numbers: tuple[int, ...]) -> Finetune:
    """Each step made from where the finetune stands."""
    for number in numbers:
        now = ledger.finetune("acme", FINETUNE.id).finetune
        row = StepRow(now.id, number, f"sha256:{number}", f"f/{number}", 20, NOW, {"loss": 1.0}, parent=now.step)
        ledger.commit_step(now, row, answer(f"s{number}"))
    return ledger.finetune("acme", FINETUNE.id).finetune


def test_a_restore_leaves_later_steps_beside_the_line_and_numbers_onwards(ledger: Ledger) -> None:
    now = trained(ledger, (1, 2, 3))
    assert ledger.line(now, 8) == Line({3: "sha256:3", 2: "sha256:2", 1: "sha256:1", 0: "sha256:a"}, whole=True)
    ledger.commit_restore(now, ledger.step(now.id, 1), Placed("f/1-again", 30), answer("restore"))
    back = ledger.finetune("acme", now.id)
    assert (back.finetune.step, back.folder, ledger.next_step(now.id)) == (1, "f/1-again", 4)
    now = trained(ledger, (4,))
    assert [row.step for row in ledger.steps(now.id)] == [0, 1, 2, 3, 4]
    line = ledger.line(now, 8)
    assert line == Line({4: "sha256:4", 1: "sha256:1", 0: "sha256:a"}, whole=True)
    assert [line.lag(step) for step in (4, 1, 0, 2)] == [0, 1, 2, 3]
    assert [line.may_hold(step) for step in (4, 3, 2, 1, 0)] == [True, False, False, True, True]


def test_a_long_line_is_known_as_far_as_asked(ledger: Ledger) -> None:
    line = ledger.line(trained(ledger, (1, 2, 3, 4)), 2)
    assert line == Line({4: "sha256:4", 3: "sha256:3"}, whole=False)
    assert (line.lag(0), line.may_hold(0), line.may_hold(5)) == (2, True, False)


def test_a_database_of_the_first_version_is_migrated_with_its_rows(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'old.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["version_table"] = "alembic_version"
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.insert(tables.finetunes).values(finetune_columns(ROW)))
        for step in range(3):
            values = {"id": FINETUNE.id, "step": step}
            insert = "INSERT INTO steps VALUES (:id, :step, 'acme', 'sha256:x', 'f', 1, '{}', '2026-01-01')"
            connection.execute(sa.text(insert), values)
    migrate(engine, MIGRATIONS)
    with engine.connect() as connection:
        found = connection.execute(sa.select(tables.steps.c.step, tables.steps.c.parent)).all()
    assert [tuple(row) for row in found] == [(0, None), (1, 0), (2, 1)]
    engine.dispose()


def test_answers_are_forgotten_after_a_week(engine: sa.Engine, ledger: Ledger, answers: Answers) -> None:
    with engine.begin() as connection:
        old = datetime.now(UTC) - timedelta(days=7, minutes=1)
        connection.execute(sa.update(tables.requests).values(created_at=old))
    answers.remember(answer("young"))
    answers.forget_old()
    assert answers.replay("acme", "CreateFinetune", "create", "d") is None
    assert answers.replay("acme", "TrainStep", "young", "d") is not None


def test_a_database_locked_by_another_process_is_told_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moontune.auth.database.BUSY_TIMEOUT_MS", 50)
    engine = open_database(f"sqlite:///{tmp_path / 'trainer.db'}", MIGRATIONS)
    ledger = Ledger(Transactions(engine))
    ledger.add_finetune(ROW, 10, answer("create"))
    holder = sqlite3.connect(tmp_path / "trainer.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="database is locked"):
        trained(ledger, (1,))
    assert ledger.finetune("acme", FINETUNE.id).finetune.step == 0  # reading goes on
    holder.execute("ROLLBACK")
    holder.close()
    assert trained(ledger, (1,)).step == 1
    engine.dispose()


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'trainer.db'}", MIGRATIONS)
    ledger = Ledger(Transactions(engine))
    ledger.add_finetune(ROW, 10, answer("create"))
    engine.dispose()
    content = bytearray((tmp_path / "trainer.db").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (tmp_path / "trainer.db").write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="database is damaged"):
        ledger.finetune("acme", FINETUNE.id)
    engine.dispose()
