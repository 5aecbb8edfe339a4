"""A trainer on a seeded base for all tests of the service; a real PostgreSQL server, on a Unix socket of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moontune.clients.trainer import TrainerClient
from moontune.values.finetune import Finetune, LoraSettings, NewFinetune
from tests.fakes.tiny_base import write_tiny_base
from tests.services.trainer.process import TrainerProcess

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


class Postgres:
    """A running server; each test takes a database of its own."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder, self.user, self._count = folder, user, 0

    def new_database(self) -> str:
        """The SQLAlchemy URL of an empty database."""
        self._count += 1
        name = f"trainer{self._count}"
        socket = f"host={self.folder} user={self.user}"
        import psycopg

        with psycopg.connect(f"{socket} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{self.user}@/{name}?host={self.folder}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if not BINARIES:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    # Not tmp_path: a socket's path may have 107 characters. The server refuses to be root.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    own = {"user": user} if os.geteuid() == 0 else {}
    if own:
        shutil.chown(folder, user)
    folder.chmod(0o700)
    binaries, data = BINARIES[-1].parent, folder / "data"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **own}
    subprocess.run([binaries / "initdb", "-D", data, "-U", user, "--no-sync"], **quiet)
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    log = folder / "log"
    subprocess.run([binaries / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-o", options, "start"], **quiet)
    try:
        yield Postgres(folder, user)
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], **quiet)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("trainer")
    running = TrainerProcess(write_tiny_base(folder / "base"), folder / "data").start()
    yield running
    assert running.stop() == 0


@pytest.fixture
async def client(trainer: TrainerProcess):
    async with TrainerClient(trainer.address, deadline_s=60.0) as client:
        yield client


@pytest.fixture
async def finetune(client: TrainerClient, request: pytest.FixtureRequest) -> Finetune:
    return await client.create_finetune(NewFinetune("", request.node.name[:128], lora=LoraSettings(4)))
