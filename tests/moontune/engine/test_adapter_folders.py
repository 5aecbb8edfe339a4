"""Adapter folders: one fetch a version, nothing taken from under a reader, nothing left behind. No torch."""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from moontune.checkpoints.digest import ADAPTER_FILES, adapter_digest_of
from moontune.engine.adapter_folders import AdapterFolders
from moontune.errors import CheckpointCorrupt, Unavailable

SIZE = 1000


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def inode(folder: str) -> int:
    return Path(folder).stat().st_ino


class Source:
    """Gives the content of a version, slowly enough for callers to meet, and counts."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def of(self, version: str, content: str | None = None) -> Callable[[Path], Awaitable[str]]:
        async def fetch(folder: Path) -> str:
            self.fetched.append(version)
            for name in ADAPTER_FILES:
                (folder / name).write_bytes((content or version).encode().ljust(SIZE // 2, b"."))
                await asyncio.sleep(0.001)
            return adapter_digest_of(folder)

        return fetch


async def test_callers_of_one_version_wait_for_one_fetch(tmp_path: Path) -> None:
    folders, source = AdapterFolders(tmp_path, 10 * SIZE), Source()

    async def use() -> str:
        async with folders.lend("a", source.of("a")) as adapter:
            assert adapter_digest_of(Path(adapter.path)) == adapter.digest
            return adapter.digest

    assert len(set(await asyncio.gather(*(use() for _ in range(8))))) == 1
    assert source.fetched == ["a"]
    assert listed(tmp_path) == [(await use()).replace(":", "-")]


async def test_what_is_lent_stays_and_goes_when_room_is_needed_later(tmp_path: Path) -> None:
    folders, source = AdapterFolders(tmp_path, SIZE), Source()
    async with folders.lend("a", source.of("a")) as first:
        async with folders.lend("b", source.of("b")):
            assert adapter_digest_of(Path(first.path)) == first.digest
        async with folders.lend("c", source.of("c")):
            assert adapter_digest_of(Path(first.path)) == first.digest
            assert len(listed(tmp_path)) == 2  # b is gone
    async with folders.lend("b", source.of("b")):
        assert len(listed(tmp_path)) == 1
    assert source.fetched == ["a", "b", "c", "b"]


async def test_callers_who_come_and_go_always_find_whole_files(tmp_path: Path) -> None:
    folders, source, chance = AdapterFolders(tmp_path, SIZE), Source(), random.Random(5)

    async def use(version: str) -> None:
        async with folders.lend(version, source.of(version)) as adapter:
            await asyncio.sleep(chance.random() * 0.003)
            assert await asyncio.to_thread(adapter_digest_of, Path(adapter.path)) == adapter.digest

    await asyncio.gather(*(use(chance.choice("abc")) for _ in range(150)))
    async with folders.lend("d", source.of("d")):
        assert len(listed(tmp_path)) == 1


async def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folders, source = AdapterFolders(tmp_path, SIZE), Source()

    async def fails(folder: Path) -> str:
        (folder / ADAPTER_FILES[0]).write_bytes(b"half")
        raise Unavailable("no trainer")

    async def lies(folder: Path) -> str:
        await source.of("a")(folder)
        return "sha256:" + "0" * 64

    for fetch, kind in ((fails, Unavailable), (lies, CheckpointCorrupt)):
        for number in range(3):
            with pytest.raises(kind):
                async with folders.lend(f"v{number}", fetch):
                    raise AssertionError
    assert not listed(tmp_path)
    assert not folders._fetching  # pyright: ignore[reportPrivateUsage]


async def test_a_folder_that_another_process_removed_or_damaged_is_fetched_again(tmp_path: Path) -> None:
    folders, source = AdapterFolders(tmp_path, SIZE), Source()
    async with folders.lend("a", source.of("a")) as adapter:
        path = Path(adapter.path)
    shutil.rmtree(path)
    async with folders.lend("a", source.of("a")):
        assert adapter_digest_of(path) == adapter.digest
    (path / ADAPTER_FILES[0]).write_bytes(b"damaged")
    other = AdapterFolders(tmp_path, SIZE)
    async with other.lend("a", source.of("a")):
        assert adapter_digest_of(path) == adapter.digest


async def test_two_versions_of_the_same_files_share_a_folder_that_is_not_replaced(tmp_path: Path) -> None:
    folders, source = AdapterFolders(tmp_path, SIZE), Source()
    async with folders.lend("a", source.of("a", "same")) as first:
        before = inode(first.path)
        async with folders.lend("b", source.of("b", "same")) as second:
            assert second == first
            assert inode(second.path) == before
    assert source.fetched == ["a", "b"]
