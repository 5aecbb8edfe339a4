"""Adapter files on this machine, one folder per digest, fetched once and checked. No torch: the front keeps them."""

import asyncio
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

from ulid import ULID

from moontune.checkpoints.digest import ADAPTER_FILES, adapter_digest_of
from moontune.engine.order import AdapterRef
from moontune.errors import CheckpointCorrupt

Fetch = Callable[[Path], Awaitable[None]]
"""Writes an adapter's two files into an empty folder."""


class AdapterFolders:
    """Folders of adapters below one root, the least recently used removed beyond a number of bytes.

    Several processes may share a root: a folder appears by one rename, and names are content digests.
    """

    def __init__(self, root: Path, budget_bytes: int) -> None:
        """`budget_bytes` bounds the files of this process's adapters; the last one asked for always stays."""
        self._root = root
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[str, int] = OrderedDict()
        self._fetching: dict[str, asyncio.Lock] = {}

    async def get(self, digest: str, fetch: Fetch) -> AdapterRef:
        """The adapter of this digest, fetched if it is not here; callers that want the same one wait for one fetch.

        Raises CheckpointCorrupt when what was fetched has another digest, and what `fetch` raises.
        """
        folder = self._root / digest.replace(":", "-")
        async with self._fetching.setdefault(digest, asyncio.Lock()):
            if digest not in self._held:
                if not await asyncio.to_thread(_holds, folder, digest):
                    await self._bring(digest, folder, fetch)
                self._held[digest] = await asyncio.to_thread(_size, folder)
            self._held.move_to_end(digest)
        self._fetching.pop(digest, None)
        await asyncio.to_thread(self._make_room)
        return AdapterRef(digest, str(folder))

    async def _bring(self, digest: str, folder: Path, fetch: Fetch) -> None:
        partial = self._root / f".{ULID()}.partial"
        await asyncio.to_thread(partial.mkdir, parents=True)
        try:
            await fetch(partial)
            if not await asyncio.to_thread(_holds, partial, digest):
                raise CheckpointCorrupt(f"the files that arrived for the adapter {digest} have another digest")
            await asyncio.to_thread(_move, partial, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)

    def _make_room(self) -> None:
        while sum(self._held.values()) > self._budget_bytes and len(self._held) > 1:
            oldest, _ = self._held.popitem(last=False)
            shutil.rmtree(self._root / oldest.replace(":", "-"), ignore_errors=True)


def _holds(folder: Path, digest: str) -> bool:
    try:
        return adapter_digest_of(folder) == digest
    except OSError:
        return False


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in ADAPTER_FILES)


def _move(partial: Path, folder: Path) -> None:
    if folder.is_dir():  # damaged, or another process was first: names are digests, so ours is as good
        shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
