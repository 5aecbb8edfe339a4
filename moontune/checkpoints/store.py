"""The store of saved checkpoints: a local folder or any fsspec URL (s3://, gs://, memory://).

A step is there once its `manifest.json` is: on a local disk the folder appears by one rename, in an object store the
manifest is the last object put. Deleting takes the manifest first. Nothing here knows tensors.
"""

import hashlib
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from moontune.checkpoints.digest import ADAPTER_FILES
from moontune.checkpoints.disk import disk_error
from moontune.checkpoints.fail_points import fail_point
from moontune.checkpoints.folder import check, new_folder, remove_folder, remove_partials, verify_folder
from moontune.checkpoints.manifest import MANIFEST_FILE, Manifest
from moontune.errors import CheckpointCorrupt, CheckpointNotFound, InvalidField, MoontuneError, Unavailable


class CheckpointStore:
    """Saved checkpoints under one URL. Safe for one writer per finetune and any number of readers.

    Args:
        url: a folder's path, or an fsspec URL. Credentials come from the environment, as the backend reads them.

    Raises:
        InvalidField: a URL of a kind that is not known, or whose backend is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # fsspec is untyped; what it gives back is pinned here and in _content and _found. No listings are kept: they
        # would hide what another process saved a second ago, from reads too.
        try:
            filesystem, root = cast(
                "tuple[AbstractFileSystem, str]", fsspec.core.url_to_fs(url, use_listings_cache=False)
            )
        except (ImportError, ValueError) as error:
            allowed = f"a folder, or a URL whose fsspec backend is installed{_how_to_install(url)}; {error}"
            raise InvalidField.of("checkpoint store", url, allowed) from error
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)

    def save(self, folder: Path) -> Manifest:
        """Copy a complete checkpoint folder (its manifest in it) into the store; returns when it holds every file.

        The source is verified first, so that a damaged file is never saved. Saving the same content again is a no-op.

        Raises:
            CheckpointCorrupt: a source file does not match its manifest, or the store holds this finetune and step
                with another adapter digest (a name is never reused for other weights).
        """
        manifest = verify_folder(folder)
        try:
            stored = self.get(manifest.finetune_id, manifest.step)
        except CheckpointNotFound:
            stored = None
        if stored is not None:
            if stored.adapter_digest != manifest.adapter_digest:
                raise CheckpointCorrupt(
                    f"{self._path(manifest.finetune_id, manifest.step)} holds adapter {stored.adapter_digest}; "
                    f"it cannot be saved again as {manifest.adapter_digest}"
                )
            return stored
        with self._troubles_told(f"{manifest.finetune_id}@{manifest.step} cannot be saved"):
            if self._local:
                self._save_local(manifest, folder)
            else:
                self._save_remote(manifest, folder)
        return manifest

    def get(self, finetune_id: str, step: int) -> Manifest:
        """The manifest of a saved step.

        Raises:
            CheckpointNotFound: there is none (never saved, deleted, or a save that did not finish).
            CheckpointCorrupt: it cannot be read as a manifest of this finetune and step.
        """
        path = f"{self._path(finetune_id, step)}/{MANIFEST_FILE}"
        try:
            content = self._content(path)
        except FileNotFoundError as error:
            raise CheckpointNotFound(f"finetune {finetune_id} has no saved checkpoint at step {step}") from error
        manifest = Manifest.from_json(content.decode(errors="replace"), path)
        if (manifest.finetune_id, manifest.step) != (finetune_id, step):
            raise CheckpointCorrupt(f"{path} is the manifest of {manifest.finetune_id}@{manifest.step}")
        return manifest

    def steps(self, finetune_id: str) -> list[int]:
        """Saved steps of a finetune, ascending, without unfinished saves; empty for one that is not known here."""
        return sorted(step for _, step in self._found(f"{self._root}/{finetune_id}", 2))

    def finetunes(self) -> list[str]:
        """Ids of the finetunes with at least one saved step, sorted."""
        return sorted({finetune_id for finetune_id, _ in self._found(self._root, 3)})

    def read(self, finetune_id: str, step: int, name: str) -> bytes:
        """One file's content, checked against the manifest; CheckpointCorrupt names a file that does not match."""
        manifest = self.get(finetune_id, step)
        return self._read_checked(manifest, name)

    def fetch(self, finetune_id: str, step: int, into: Path, names: Sequence[str] | None = None) -> Manifest:
        """Copy files of a saved step into a local folder (made if needed), each checked, the manifest last.

        Args:
            finetune_id: whose step.
            step: which step.
            into: the local folder; files of the same names are replaced.
            names: which files; None takes all. `ADAPTER_FILES` is what serving needs.

        Raises:
            CheckpointNotFound: the step is not saved.
            CheckpointCorrupt: a file is missing or does not match; `into` then has no manifest.
        """
        manifest = self.get(finetune_id, step)
        into.mkdir(parents=True, exist_ok=True)
        (into / MANIFEST_FILE).unlink(missing_ok=True)
        for name in names if names is not None else [entry.name for entry in manifest.files]:
            partial = into / f".{name}.partial"
            partial.write_bytes(self._read_checked(manifest, name))
            partial.replace(into / name)
        (into / MANIFEST_FILE).write_text(manifest.to_json())
        return manifest

    def fetch_adapter(self, finetune_id: str, step: int, into: Path) -> Manifest:
        """`fetch` of the adapter's two files alone."""
        return self.fetch(finetune_id, step, into, ADAPTER_FILES)

    def verify(self, finetune_id: str, step: int) -> Manifest:
        """Read every file of a saved step and check it; CheckpointCorrupt names the first that does not match."""
        manifest = self.get(finetune_id, step)
        for entry in manifest.files:
            self._read_checked(manifest, entry.name)
        return manifest

    def delete(self, finetune_id: str, step: int) -> None:
        """Delete a saved step, damaged or not, and free its space; CheckpointNotFound when it is not there."""
        if step not in self.steps(finetune_id):
            raise CheckpointNotFound(f"finetune {finetune_id} has no saved checkpoint at step {step}")
        self.remove(finetune_id, step)

    def remove(self, finetune_id: str, step: int) -> None:
        """Delete whatever there is of a step, manifest first; nothing is no error."""
        path = self._path(finetune_id, step)
        with self._troubles_told(f"{finetune_id}@{step} cannot be deleted"):
            if self._local:
                remove_folder(Path(path))
                return
            files = cast("list[str]", self._filesystem.find(path))
            for file in sorted(files, key=lambda name: not name.endswith(f"/{MANIFEST_FILE}")):
                self._filesystem.rm_file(file)
                fail_point("remove.manifest")

    def clear(self, finetune_id: str) -> list[int]:
        """Delete what saves that did not reach their manifest left; only while nothing of the finetune is saved.

        Returns the steps that had such files.
        """
        if self._local:
            remove_partials(Path(self._root) / finetune_id)
        saved = set(self.steps(finetune_id))
        unfinished = {step for _, step in self._found(f"{self._root}/{finetune_id}", 2, "")} - saved
        for step in unfinished:
            self.remove(finetune_id, step)
        return sorted(unfinished)

    def _path(self, finetune_id: str, step: int) -> str:
        return f"{self._root}/{finetune_id}/{step:08d}"

    def _found(self, folder: str, depth: int, file: str = MANIFEST_FILE) -> list[tuple[str, int]]:
        # No glob: the folder's own name may hold its signs.
        with self._troubles_told(f"{folder} cannot be listed"):
            paths = cast("list[str]", self._filesystem.find(folder, maxdepth=depth))
        found = [path.split("/") for path in paths if path.endswith(f"/{file}") or not file]
        return [(parts[-3], int(parts[-2])) for parts in found if len(parts) >= 3 and parts[-2].isdigit()]

    def _content(self, path: str) -> bytes:
        with self._troubles_told(f"{path} cannot be read"):
            return cast("bytes", self._filesystem.cat_file(path))

    @contextmanager
    def _troubles_told(self, doing: str) -> Generator[None]:
        """A disk or a server that fails is Unavailable or ResourceExhausted; an absent file stays FileNotFoundError."""
        try:
            yield
        except (MoontuneError, FileNotFoundError):
            raise
        except OSError as error:
            raise disk_error(error, doing) from error
        except Exception as error:
            if self._local:
                raise
            # Backends raise classes of their own for a server that is away, slow or refuses.
            raise Unavailable(f"{doing}: {type(error).__name__}: {error}") from error

    def _read_checked(self, manifest: Manifest, name: str) -> bytes:
        entry = manifest.file(name)
        path = f"{self._path(manifest.finetune_id, manifest.step)}/{name}"
        try:
            content = self._content(path)
        except FileNotFoundError as error:
            raise CheckpointCorrupt(f"{path} is in the manifest and is missing") from error
        check(path, entry, len(content), hashlib.sha256(content).hexdigest())
        return content

    def _save_local(self, manifest: Manifest, folder: Path) -> None:
        final = Path(self._path(manifest.finetune_id, manifest.step))
        if final.exists():
            remove_folder(final)  # no manifest: what an interrupted delete left
        with new_folder(final) as partial:
            for entry in manifest.files:
                shutil.copyfile(folder / entry.name, partial / entry.name)
            (partial / MANIFEST_FILE).write_text(manifest.to_json())

    def _save_remote(self, manifest: Manifest, folder: Path) -> None:
        path = self._path(manifest.finetune_id, manifest.step)
        self._filesystem.makedirs(path, exist_ok=True)
        for entry in manifest.files:
            self._filesystem.put_file(str(folder / entry.name), f"{path}/{entry.name}")
            fail_point("store.file")
        fail_point("store.before-manifest")
        self._filesystem.pipe_file(f"{path}/{MANIFEST_FILE}", manifest.to_json().encode())


def _how_to_install(url: str) -> str:
    return " (pip install 'moontune[s3]')" if url.startswith(("s3://", "s3a://")) else ""
