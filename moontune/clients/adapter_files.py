"""Files of an adapter or an export between a folder and a stream of chunks, each checked against its digest."""

import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from moontune.api.trainer.v1 import trainer_service_pb2 as pb
from moontune.errors import CheckpointCorrupt, InvalidField
from moontune.values.adapter import CHUNK_BYTES, AdapterManifest, BundleFile, ExportManifest, FileChunk
from moontune.wire.bundle import chunks_of, file_chunk_from_proto

Message = TypeVar("Message", pb.DownloadAdapterResponse, pb.ExportCheckpointResponse)
Manifest = TypeVar("Manifest", AdapterManifest, ExportManifest)


class _Incoming:
    """A file that is being written, and the digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()


class FolderReceiver:
    """Writes a stream's files beside the folder and moves them in only once every one is whole.

    Use it in a `with`: what was not finished leaves nothing behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._expected: tuple[BundleFile, ...] | None = None
        self._open: dict[str, _Incoming] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        for incoming in self._open.values():
            incoming.file.close()
        shutil.rmtree(self._part, ignore_errors=True)

    def expect(self, files: Sequence[BundleFile]) -> None:
        """The manifest has come."""
        if self._expected is not None:
            raise CheckpointCorrupt("the stream has two manifests")
        self._expected = tuple(files)
        for file in self._expected:
            self._open[file.name] = _Incoming((self._part / file.name).open("wb"))

    def take(self, chunk: FileChunk) -> None:
        """The next bytes of a file have come."""
        if chunk.file not in self._open:
            raise CheckpointCorrupt(f"the stream holds {chunk.file!r}, which its manifest does not name")
        incoming = self._open[chunk.file]
        incoming.file.write(chunk.data)
        incoming.digest.update(chunk.data)

    def finish(self) -> None:
        """The stream has ended: check every file, then move all into the folder."""
        if self._expected is None:
            raise CheckpointCorrupt("the stream ended before its manifest")
        for expected in self._expected:
            incoming = self._open[expected.name]
            size, sha256 = incoming.file.tell(), incoming.digest.hexdigest()
            incoming.file.close()
            if (size, sha256) != (expected.size_bytes, expected.sha256):
                raise CheckpointCorrupt(
                    f"{expected.name} came as {size} bytes with SHA-256 {sha256}; its manifest says "
                    f"{expected.size_bytes} bytes with {expected.sha256}",
                    metadata={"file": expected.name},
                )
        for expected in self._expected:
            (self._part / expected.name).replace(self._folder / expected.name)


async def receive(
    messages: AsyncIterator[Message], folder: Path, read_manifest: Callable[[Message], Manifest]
) -> Manifest:
    """Write a stream of one manifest and its files' chunks into a folder. Returns the manifest.

    Raises:
        CheckpointCorrupt: a file is not what the manifest says, or there is no manifest; the folder is as it was.
    """
    manifest: Manifest | None = None
    with FolderReceiver(folder) as receiver:
        async for message in messages:
            if message.WhichOneof("payload") == "chunk":
                receiver.take(file_chunk_from_proto(message.chunk))
            else:
                manifest = read_manifest(message)
                receiver.expect(manifest.files)
        receiver.finish()
    assert manifest is not None, "finish refuses a stream without one"
    return manifest


def folder_chunks(
    folder: Path, names: Sequence[str] = ()
) -> tuple[tuple[BundleFile, ...], Callable[[], Iterator[FileChunk]]]:
    """Describe a folder's files (those named, or all of them, by name) and a way to read them in chunks.

    Raises:
        InvalidField: a file that is not there, or none at all.
    """
    paths = [folder / name for name in names] or sorted(path for path in folder.iterdir() if path.is_file())
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        raise InvalidField.of("folder", str(folder), f"a folder with the files {missing or 'of an adapter'}")
    files = tuple(_describe(path) for path in paths)

    def chunks() -> Iterator[FileChunk]:
        for path in paths:
            yield from chunks_of(path.name, _blocks(path))

    return files, chunks


def _describe(path: Path) -> BundleFile:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return BundleFile(path.name, path.stat().st_size, digest.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            yield block
