"""The checkpoint store: whole or absent, verified on read, the same for a folder and an object store."""

import errno
import hashlib
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fsspec.registry import _registry as registered

from moontune.checkpoints import ADAPTER_FILES, MANIFEST_FILE, CheckpointStore, Manifest, adapter_digest, sha256_file
from moontune.checkpoints.folder import file_entries, new_folder, remove_partials
from moontune.errors import CheckpointCorrupt, CheckpointNotFound, InvalidField, ResourceExhausted, Unavailable
from moontune.values.finetune import LoraSettings, LoraTarget

FINETUNE = "01HZZZZZZZZZZZZZZZZZZZZZZZ"


def write_folder(parent: Path, step: int = 3, weights: bytes = b"weights") -> Path:
    folder = parent / f"step-{step}-{hashlib.sha256(weights).hexdigest()[:6]}"
    with new_folder(folder) as partial:
        (partial / "adapter_model.safetensors").write_bytes(weights)
        (partial / "adapter_config.json").write_text("{}")
        (partial / "optimizer.safetensors").write_bytes(b"moments")
        (partial / "trainer_state.json").write_text("{}")
        files = file_entries(partial)
        manifest = Manifest(
            checkpoint_id="01HZZZZZZZZZZZZZZZZZZZZZZA",
            finetune_id=FINETUNE,
            finetune_name="digits",
            organisation="local",
            base="moontune-tiny",
            base_digest="sha256:" + "0" * 64,
            lora=LoraSettings(rank=4, targets=(LoraTarget.TEXT_MLP,)),
            step=step,
            adapter_digest=adapter_digest({entry.name: entry.sha256 for entry in files}),
            created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            files=files,
            metrics={"reward_mean": 0.25},
            versions={"torch": "2"},
        )
        (partial / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}")


def corrupt(store: CheckpointStore, name: str, content: bytes) -> None:
    store._filesystem.pipe_file(f"{store._path(FINETUNE, 3)}/{name}", content)


def test_adapter_digest_is_the_documented_hash() -> None:
    pairs = {"adapter_model.safetensors": "a" * 64, "adapter_config.json": "b" * 64, "optimizer.safetensors": "c" * 64}
    lines = f"adapter_config.json\0{'b' * 64}\nadapter_model.safetensors\0{'a' * 64}\n"
    assert adapter_digest(pairs) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def test_manifest_round_trip(tmp_path: Path) -> None:
    manifest = Manifest.from_json((write_folder(tmp_path) / MANIFEST_FILE).read_text(), "here")
    assert Manifest.from_json(manifest.to_json(), "here") == manifest
    assert manifest.size_bytes == len(b"weights") + 2 + len(b"moments") + 2
    later = replace(manifest, expires_at=datetime(2027, 1, 1, tzinfo=UTC), lora=LoraSettings(rank=1, alpha=3.5))
    assert Manifest.from_json(later.to_json(), "here") == later


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 99}'])
def test_a_bad_manifest_names_the_file(text: str) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"here/manifest\.json"):
        Manifest.from_json(text, "here/manifest.json")


@pytest.mark.parametrize("name", ["../adapter_config.json", "/etc/passwd", "", ".hidden", "manifest.json"])
def test_a_manifest_whose_file_is_not_a_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    manifest = Manifest.from_json((write_folder(tmp_path) / MANIFEST_FILE).read_text(), "here")
    spoilt = replace(manifest, files=(replace(manifest.files[0], name=name), *manifest.files[1:]))
    with pytest.raises(CheckpointCorrupt, match="plain file name"):
        Manifest.from_json(spoilt.to_json(), "here")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_store_lists_what_it_holds_under_any_folder_name(tmp_path: Path, scheme: str) -> None:
    store = CheckpointStore(f"{scheme}{tmp_path}/run [1]*?/store")
    assert (store.steps(FINETUNE), store.finetunes()) == ([], [])
    store.save(write_folder(tmp_path, 3))
    assert store.steps(FINETUNE) == [3]
    assert store.steps("*") == []
    assert store.finetunes() == [FINETUNE]


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "adl2://bucket"])
def test_a_store_that_cannot_be_opened_is_a_clear_error(url: str) -> None:
    with pytest.raises(InvalidField, match=r"nosuch|adl2"):
        CheckpointStore(url)


def test_save_list_fetch_delete(store: CheckpointStore, tmp_path: Path) -> None:
    manifests = [store.save(write_folder(tmp_path / "steps", step)) for step in (3, 12)]
    assert [store.get(FINETUNE, step) for step in store.steps(FINETUNE)] == manifests
    assert store.steps(FINETUNE) == [3, 12]
    assert store.finetunes() == [FINETUNE]
    assert store.read(FINETUNE, 3, "adapter_model.safetensors") == b"weights"
    fetched = store.fetch_adapter(FINETUNE, 12, tmp_path / "out")
    assert fetched == manifests[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*ADAPTER_FILES, MANIFEST_FILE])
    store.delete(FINETUNE, 3)
    assert store.steps(FINETUNE) == [12]
    with pytest.raises(CheckpointNotFound, match="step 3"):
        store.get(FINETUNE, 3)
    with pytest.raises(CheckpointNotFound):
        store.delete(FINETUNE, 3)
    assert store.save(write_folder(tmp_path / "again", 3)).step == 3


def test_saving_twice_is_one_save_and_other_weights_are_refused(store: CheckpointStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "steps")
    assert store.save(folder) == store.save(folder)
    with pytest.raises(CheckpointCorrupt, match="cannot be saved again"):
        store.save(write_folder(tmp_path / "steps", weights=b"others"))


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "trainer_state.json"]
)
def test_a_changed_byte_is_found_in_each_file(store: CheckpointStore, tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "steps")
    store.save(folder)
    original = store.read(FINETUNE, 3, name)
    corrupt(store, name, bytes([original[0] ^ 1]) + original[1:])
    for read in (
        lambda: store.read(FINETUNE, 3, name),
        lambda: store.verify(FINETUNE, 3),
        lambda: store.fetch(FINETUNE, 3, tmp_path / "out"),
    ):
        with pytest.raises(CheckpointCorrupt, match=name):
            read()
    assert not (tmp_path / "out" / MANIFEST_FILE).exists()


def test_a_short_or_missing_file_is_found(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(write_folder(tmp_path / "steps"))
    corrupt(store, "adapter_config.json", b"{")
    with pytest.raises(CheckpointCorrupt, match=r"adapter_config\.json has 1 bytes; its manifest says 2"):
        store.verify(FINETUNE, 3)
    store._filesystem.rm_file(f"{store._path(FINETUNE, 3)}/adapter_config.json")
    with pytest.raises(CheckpointCorrupt, match=r"adapter_config\.json is in the manifest and is missing"):
        store.verify(FINETUNE, 3)


def test_a_save_that_did_not_reach_its_manifest_is_not_listed(store: CheckpointStore, tmp_path: Path) -> None:
    store._filesystem.makedirs(store._path(FINETUNE, 3), exist_ok=True)
    corrupt(store, "adapter_model.safetensors", b"half")
    assert store.steps(FINETUNE) == []
    with pytest.raises(CheckpointNotFound):
        store.get(FINETUNE, 3)
    assert store.save(write_folder(tmp_path / "steps")) == store.verify(FINETUNE, 3)


def test_a_damaged_source_is_never_saved(store: CheckpointStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "steps")
    (folder / "optimizer.safetensors").write_bytes(b"tnemoms")
    with pytest.raises(CheckpointCorrupt, match=r"optimizer\.safetensors"):
        store.save(folder)
    assert store.steps(FINETUNE) == []


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "final") as partial:
            (partial / "file").write_text("x")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_partials_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".final.01.partial").mkdir()
    (tmp_path / "kept").mkdir()
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_s3_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registered, "s3", raising=False)
    with pytest.raises(InvalidField, match=r"pip install 'moontune\[s3\]'"):
        CheckpointStore("s3://bucket/x")


def test_a_damaged_checkpoint_and_left_over_files_can_be_deleted(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(write_folder(tmp_path / "steps"))
    corrupt(store, MANIFEST_FILE, b"{")
    store.delete(FINETUNE, 3)
    assert store.steps(FINETUNE) == []
    store.remove(FINETUNE, 3)  # again is no error
    store._filesystem.makedirs(store._path(FINETUNE, 3), exist_ok=True)
    corrupt(store, "adapter_model.safetensors", b"half")
    store.save(write_folder(tmp_path / "more", step=4))
    assert store.clear(FINETUNE) == [3]
    assert store.steps(FINETUNE) == [4]
    assert store._filesystem.find(store._path(FINETUNE, 3)) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = CheckpointStore(str(tmp_path / "store")), write_folder(tmp_path / "steps")

    def refuse(number: int):
        def copyfile(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return copyfile

    for number, error in ((errno.ENOSPC, ResourceExhausted), (errno.EROFS, Unavailable)):
        monkeypatch.setattr("shutil.copyfile", refuse(number))
        with pytest.raises(error, match=f"cannot be saved.*{os.strerror(number)}"):
            store.save(folder)
    monkeypatch.undo()
    assert list((tmp_path / "store" / FINETUNE).iterdir()) == []
    assert store.save(folder) == store.verify(FINETUNE, 3)


def test_any_changed_byte_of_a_manifest_is_found(tmp_path: Path) -> None:
    text = (write_folder(tmp_path) / MANIFEST_FILE).read_text()
    for place in range(0, len(text), 7):
        if text[place].isspace():
            continue  # layout is not content
        spoilt = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        with pytest.raises(CheckpointCorrupt):
            Manifest.from_json(spoilt, "here")
    fields = json.loads(text)
    del fields["sha256"]  # as an earlier build wrote it
    assert Manifest.from_json(json.dumps(fields), "here") == Manifest.from_json(text, "here")
