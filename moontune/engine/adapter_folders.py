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

Fetch = Callable[[Path], Awaitable[str]]
"""Writes an adapter's two files into an empty folder and returns the digest that was announced for them."""

MOST_VERSIONS = 65536
"""Versions whose digest is remembered; a forgotten one is fetched again."""


class AdapterFolders:
    """Folders of adapters below one root, the least recently used removed beyond a number of bytes.

    Several processes may share a root: a folder appears by one rename, and names are content digests.
    """

    def __init__(self, root: Path, budget_bytes: int) -> None:
        """`budget_bytes` bounds the files of this process's adapters; the last one asked for always stays."""
        self._root = root
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[str, int] = OrderedDict()
        self._digests: dict[str, str] = {}
        self._fetching: dict[str, asyncio.Lock] = {}

    async def get(self, version: str, fetch: Fetch) -> AdapterRef:
        """The adapter of a version, fetched if it is not here; callers that want the same one wait for one fetch.

        version: any name of immutable weights, `<finetune_id>@<step>` say.
        Raises CheckpointCorrupt when what was fetched has another digest, and what `fetch` raises.
        """
        async with self._fetching.setdefault(version, asyncio.Lock()):
            digest = self._digests.get(version)
            if digest is None or digest not in self._held:
                digest = await self._bring(digest, fetch)
                if len(self._digests) >= MOST_VERSIONS:
                    self._digests.clear()
                self._digests[version] = digest
            self._held.move_to_end(digest)
        self._fetching.pop(version, None)
        await asyncio.to_thread(self._make_room)
        return AdapterRef(digest, str(self._folder(digest)))

    async def _bring(self, digest: str | None, fetch: Fetch) -> str:
        if digest is None or not await asyncio.to_thread(_holds, self._folder(digest), digest):
            partial = self._root / f".{ULID()}.partial"
            await asyncio.to_thread(partial.mkdir, parents=True)
            try:
                announced = await fetch(partial)
                if digest not in (None, announced) or not await asyncio.to_thread(_holds, partial, announced):
                    raise CheckpointCorrupt(f"the files that arrived for the adapter {announced} have another digest")
                await asyncio.to_thread(_move, partial, self._folder(announced))
                digest = announced
            finally:
                await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        self._held[digest] = await asyncio.to_thread(_size, self._folder(digest))
        return digest

    def _folder(self, digest: str) -> Path:
        return self._root / digest.replace(":", "-")

    def _make_room(self) -> None:
        while sum(self._held.values()) > self._budget_bytes and len(self._held) > 1:
            oldest, _ = self._held.popitem(last=False)
            shutil.rmtree(self._folder(oldest), ignore_errors=True)


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
