"""The flow of making a finetune from an adapter's files: take the bytes in, check them, read the form, create."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from moontune.errors import InvalidField, ResourceExhausted
from moontune.serving.worker import ModelWorker
from moontune.telemetry.logs import get_logger
from moontune.values.adapter import AdapterImport, BundleFile, FileChunk
from moontune.values.finetune import Finetune, NewFinetune
from services.trainer.answers import Answers
from services.trainer.finetunes import Finetunes
from services.trainer.folders import StepFolders
from services.trainer.orders import FormRead, ReadForm
from services.trainer.spool import new_spool

RPC = "ImportAdapter"
MOST_FILES = 64

log = get_logger(__name__)


class Imports:
    """Takes adapters in."""

    def __init__(
        self, finetunes: Finetunes, answers: Answers, folders: StepFolders, worker: ModelWorker, most_bytes: int
    ) -> None:
        """most_bytes: of one import's files together."""
        self._finetunes, self._answers, self._folders = finetunes, answers, folders
        self._worker, self._most_bytes = worker, most_bytes

    async def bring_in(
        self, organisation: str, order: AdapterImport, chunks: AsyncIterator[FileChunk], payload_digest: str
    ) -> Finetune:
        """Make a finetune at step 0 with the files' weights. Nothing is left of an import that fails.

        Raises:
            InvalidField: the files are not those announced, or the base cannot take them (the tensors are listed).
            FinetuneExists, RequestIdReused, WrongBase, CheckpointCorrupt. ResourceExhausted: too many bytes.
        """
        self._finetunes.check_base(order.base)
        self._check_size(order.files)
        with new_spool(self._folders.spool) as spool:
            files, peft = spool.folder / "files", spool.folder / "peft"
            files.mkdir()
            await _receive(order.files, chunks, files)
            new = NewFinetune(order.request_id, order.name, order.base)
            # A retry of an import that was answered needs no reading: its answer is there.
            if not await asyncio.to_thread(self._answers.known, organisation, RPC, order.request_id):
                read: FormRead = await self._worker.call(
                    "forms", "read", ReadForm(order.kind, str(files), order.alpha, str(peft))
                )
                new = replace(new, lora=read.lora, kind=read.kind)
                if read.inert:
                    log.warning("tensors that the form never reads were left out", names=list(read.inert))
            return await self._finetunes.create(organisation, new, payload_digest, RPC, str(peft))

    def _check_size(self, files: tuple[BundleFile, ...]) -> None:
        if len(files) > MOST_FILES:
            raise InvalidField.of("header.files", f"{len(files)} files", f"at most {MOST_FILES}")
        total = sum(file.size_bytes for file in files)
        if total > self._most_bytes:
            raise ResourceExhausted(f"header.files are {total} bytes; this trainer takes {self._most_bytes} at most")


async def _receive(files: tuple[BundleFile, ...], chunks: AsyncIterator[FileChunk], folder: Path) -> None:
    """Write the files as their bytes come; InvalidField unless they are exactly those announced, in order."""
    left = list(files)
    current, digest, size_bytes = left.pop(0), hashlib.sha256(), 0

    async for chunk in chunks:
        while size_bytes == current.size_bytes and chunk.file != current.name and left:
            _check_whole(current, size_bytes, digest.hexdigest(), folder)
            current, digest, size_bytes = left.pop(0), hashlib.sha256(), 0
        if chunk.file != current.name or size_bytes + len(chunk.data) > current.size_bytes:
            given = f"{len(chunk.data)} bytes of {chunk.file!r} after {size_bytes} bytes of {current.name!r}"
            raise InvalidField.of("chunk", given, "the announced files' bytes, in their order")
        await asyncio.to_thread(_append, folder / chunk.file, chunk.data)
        digest.update(chunk.data)
        size_bytes += len(chunk.data)
    _check_whole(current, size_bytes, digest.hexdigest(), folder)
    for empty in left:
        _check_whole(empty, 0, hashlib.sha256().hexdigest(), folder)


def _check_whole(file: BundleFile, size_bytes: int, sha256: str, folder: Path) -> None:
    if size_bytes != file.size_bytes:
        raise InvalidField.of(file.name, f"{size_bytes} bytes", f"{file.size_bytes}, as announced")
    if sha256 != file.sha256:
        raise InvalidField.of(file.name, f"SHA-256 {sha256}", f"{file.sha256}, as announced")
    (folder / file.name).touch()  # an empty file has no chunk


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
