"""A real PostgreSQL server for the tests that want one, on a Unix socket in a folder of its own: no port is taken."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
