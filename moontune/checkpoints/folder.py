"""A folder that appears whole or not at all, on a local disk.

Written under a temporary name beside its final one, every file and the folder itself flushed to the disk, then renamed:
a kill or a power cut at any point leaves either nothing under the final name or all of it.
"""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ulid import ULID

from moontune.checkpoints.digest import sha256_file
from moontune.checkpoints.fail_points import fail_point
from moontune.checkpoints.manifest import MANIFEST_FILE, FileEntry, Manifest
from moontune.errors import CheckpointCorrupt

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def new_folder(final: Path) -> Generator[Path]:
    """Give an empty temporary folder to fill; on a clean exit it becomes `final`, durably; on an error it is removed.

    Raises:
        FileExistsError: `final` exists already; nothing is replaced.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / f".{final.name}.{ULID()}{TEMPORARY_SUFFIX}"
    partial.mkdir()
    try:
        yield partial
        fail_point("folder.written")
        for path in sorted(partial.iterdir()):
            _flush(path)
        _flush(partial)
        fail_point("folder.flushed")
        if final.exists():
            raise FileExistsError(str(final))
        partial.rename(final)
        _flush(final.parent)
        fail_point("folder.renamed")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partials(parent: Path) -> None:
    """Remove what killed writers left in this folder. Only safe while nobody writes there (at start)."""
    if parent.is_dir():
        for path in parent.glob(f".*{TEMPORARY_SUFFIX}"):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a checkpoint folder, manifest first, so that a kill half-way leaves nothing that is listed."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    if folder.is_dir():
        _flush(folder)
        fail_point("remove.manifest")
        shutil.rmtree(folder)


def file_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Name, SHA-256 and size of each file of the folder but the manifest, sorted by name."""
    return tuple(
        FileEntry(path.name, sha256_file(path), path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    )


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest; CheckpointCorrupt, naming the file, when it is absent or cannot be read."""
    path = folder / MANIFEST_FILE
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read: {error}") from error
    return Manifest.from_json(text, str(path))


def verify_file(folder: Path, entry: FileEntry) -> None:
    """Raise CheckpointCorrupt, naming the file, unless it is there with the manifest's size and SHA-256."""
    path = folder / entry.name
    try:
        size_bytes = path.stat().st_size
        found = sha256_file(path)
    except OSError as error:
        raise CheckpointCorrupt(f"{path} is in the manifest and cannot be read: {error}") from error
    check(str(path), entry, size_bytes, found)


def verify_folder(folder: Path) -> Manifest:
    """Check every file of a folder against its manifest and return it."""
    manifest = read_manifest(folder)
    for entry in manifest.files:
        verify_file(folder, entry)
    return manifest


def check(where: str, entry: FileEntry, size_bytes: int, sha256: str) -> None:
    """Raise CheckpointCorrupt, naming `where`, unless size and digest are the manifest's."""
    if size_bytes != entry.size_bytes:
        raise CheckpointCorrupt(f"{where} has {size_bytes} bytes; its manifest says {entry.size_bytes}")
    if sha256 != entry.sha256:
        raise CheckpointCorrupt(f"{where} has SHA-256 {sha256}; its manifest says {entry.sha256}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
