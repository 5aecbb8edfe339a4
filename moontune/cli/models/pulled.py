"""The record of a pulled base: where its files came from and their digests, beside them in `pulled.json`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moontune.checkpoints.digest import sha256_file
from moontune.checkpoints.manifest import FileEntry
from moontune.errors import CheckpointCorrupt

RECORD_FILE = "pulled.json"


@dataclass(frozen=True, slots=True)
class PulledBase:
    """source: repository and commit, or the folder it was copied from. licence: as shown when it was pulled."""

    name: str
    source: str
    licence: str
    files: tuple[FileEntry, ...]

    def write(self, folder: Path) -> None:
        """Write the record beside the files."""
        files = {entry.name: {"sha256": entry.sha256, "size_bytes": entry.size_bytes} for entry in self.files}
        fields = {"name": self.name, "source": self.source, "licence": self.licence, "files": files}
        (folder / RECORD_FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "PulledBase | None":
        """The record in a folder, None where there is none; CheckpointCorrupt for one that cannot be read."""
        path = folder / RECORD_FILE
        if not path.is_file():
            return None
        try:
            fields = cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8")))
            files = cast("dict[str, dict[str, object]]", fields["files"])
            entries = tuple(
                FileEntry(Path(name).name, str(entry["sha256"]), int(cast("int", entry["size_bytes"])))
                for name, entry in files.items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointCorrupt(f"{path} is not a record of a pulled base: {error}") from error
        return cls(str(fields.get("name")), str(fields.get("source")), str(fields.get("licence")), entries)


def damaged_files(record: PulledBase, folder: Path, tell: Callable[[str], None]) -> list[str]:
    """What is wrong with the files of a record, one line each; `tell` hears of each file before it is read."""
    problems: list[str] = []
    for entry in record.files:
        path = folder / entry.name
        tell(f"{entry.name}: {entry.size_bytes / 1e6:.1f} MB")
        if not path.is_file():
            problems.append(f"{entry.name} is missing")
        elif path.stat().st_size != entry.size_bytes:
            problems.append(f"{entry.name} has {path.stat().st_size} bytes; it was pulled with {entry.size_bytes}")
        elif (found := sha256_file(path)) != entry.sha256:
            problems.append(f"{entry.name} has SHA-256 {found}; it was pulled with {entry.sha256}")
    return problems
