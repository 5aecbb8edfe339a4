"""Adapter files on this machine, one folder per digest, fetched once and checked. No torch: the front keeps them."""

import asyncio
import contextlib
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from weakref import WeakValueDictionary

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

    Several processes may share a root: a folder appears and disappears by one rename, and names are content digests.
    """

    def __init__(
        self, root: Path, budget_bytes: int, fetched: Callable[[float], object] = lambda seconds: None
    ) -> None:
        """`budget_bytes` bounds the files of this process's adapters; those lent out stay whatever their size.

        fetched: told the seconds of each fetch that succeeded.
        """
        self._fetched = fetched
        self._root = root
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[str, int] = OrderedDict()
        self._lent: Counter[str] = Counter()
        self._digests: dict[str, str] = {}
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def lend(self, version: str, fetch: Fetch) -> AsyncGenerator[AdapterRef]:
        """The adapter of a version for the length of the block, fetched if it is not here.

        Its files stay until the block ends; callers that want the same version wait for one fetch. version: any name
        that never comes to mean other weights. Raises CheckpointCorrupt when what was fetched has another digest, and
        what `fetch` raises.
        """
        digest = await self._take(version, fetch)
        try:
            await self._make_room()
            yield AdapterRef(digest, str(self._folder(digest)))
        finally:
            self._lent[digest] -= 1
            self._lent += Counter()  # forgets those that nobody has

    def has(self, version: str) -> bool:
        """Whether the version's files are here, so that `lend` would not fetch."""
        return self._digests.get(version) in self._held

    async def _take(self, version: str, fetch: Fetch) -> str:
        """Bring the version's adapter here if need be, and count it as lent."""
        lock = self._fetching.setdefault(version, asyncio.Lock())
        async with lock:
            digest = self._digests.get(version)
            if digest is None or digest not in self._held or not self._folder(digest).is_dir():
                digest = await self._bring(digest, fetch)
                if len(self._digests) >= MOST_VERSIONS:
                    self._digests.clear()
                self._digests[version] = digest
            self._held.move_to_end(digest)
            self._lent[digest] += 1
            return digest

    async def _bring(self, digest: str | None, fetch: Fetch) -> str:
        if digest is None or not await asyncio.to_thread(_holds, self._folder(digest), digest):
            partial = self._beside("partial")
            await asyncio.to_thread(partial.mkdir, parents=True)
            started = time.monotonic()
            try:
                announced = await fetch(partial)
                if digest not in (None, announced) or not await asyncio.to_thread(_holds, partial, announced):
                    raise CheckpointCorrupt(f"the files that arrived for the adapter {announced} have another digest")
                await asyncio.to_thread(self._place, partial, announced)
                digest = announced
                self._fetched(time.monotonic() - started)
            finally:
                await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        self._held[digest] = await asyncio.to_thread(_size, self._folder(digest))
        return digest

    def _place(self, partial: Path, digest: str) -> None:
        """Move a checked folder to its name, unless a whole one is there: somebody may be reading that."""
        folder = self._folder(digest)
        if folder.is_dir() and not _holds(folder, digest):
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.is_dir():
            partial.rename(folder)

    async def _make_room(self) -> None:
        """Remove folders beyond the budget, oldest use first, but those that are lent."""
        removed: list[Path] = []
        for digest in [digest for digest in self._held if digest not in self._lent]:
            if sum(self._held.values()) <= self._budget_bytes:
                break
            del self._held[digest]
            # Renamed here and now: a caller that comes before the files are deleted must not find half a folder.
            trash = self._beside("trash")
            with contextlib.suppress(FileNotFoundError):  # another process was first
                self._folder(digest).rename(trash)
                removed.append(trash)
        for trash in removed:
            await asyncio.to_thread(shutil.rmtree, trash, ignore_errors=True)

    def _folder(self, digest: str) -> Path:
        return self._root / digest.replace(":", "-")

    def _beside(self, suffix: str) -> Path:
        return self._root / f".{ULID()}.{suffix}"


def _holds(folder: Path, digest: str) -> bool:
    try:
        return adapter_digest_of(folder) == digest
    except OSError:
        return False


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in ADAPTER_FILES)
