"""Weights written part by part."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moontune.model import shards
from moontune.model.base_model import load_base
from moontune.model.shards import write_shards
from tests.fakes.tiny_base import CONFIG, seeded_state, write_tiny_base


def test_what_fits_one_file_is_one_file(tmp_path: Path) -> None:
    write_shards([("a", torch.arange(3.0)), ("b", torch.ones(2, 2))], tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["a"].tolist() == [0.0, 1.0, 2.0]


def test_files_by_hand(tmp_path: Path) -> None:
    """16 bytes a file: 8 and 8, then 12, then 20 in a file of its own, then 4."""
    sizes = {"a": 2, "b": 2, "c": 3, "d": 5, "e": 1}
    write_shards(((name, torch.full((size,), float(size))) for name, size in sizes.items()), tmp_path, 16)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {name: int(file.split("-")[1]) for name, file in index["weight_map"].items()}
    assert files == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 4}
    assert index["metadata"]["total_size"] == 52
    assert len(list(tmp_path.glob("model-*-of-00004.safetensors"))) == 4
    assert load_file(tmp_path / "model-00003-of-00004.safetensors")["d"].tolist() == [5.0] * 5


def test_shards_load_as_a_base(tmp_path: Path) -> None:
    write_tiny_base(tmp_path, seed=4)
    (tmp_path / "model.safetensors").unlink()
    state = seeded_state(CONFIG, 4, 1.6)
    write_shards(state.items(), tmp_path, 50_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    found = dict(load_base(str(tmp_path), device="cpu").module.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_no_more_than_a_file_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a tensor is asked for, those of finished files are gone."""
    alive: list[int] = []
    made = 0

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal made
        for index in range(6):
            made += 1
            alive.append(made - written)
            yield str(index), torch.zeros(2)

    written = 0
    save = shards.save_file

    def counted(held: dict[str, torch.Tensor], *rest: object, **named: object) -> None:
        nonlocal written
        save(held, *rest, **named)  # pyright: ignore[reportArgumentType]
        written += len(held)

    monkeypatch.setattr(shards, "save_file", counted)
    write_shards(tensors(), tmp_path, 16)
    assert max(alive) == 3  # two in hand, and the one that is being made
