"""The files that hold a base's weights: one safetensors file, a sharded index of them, or one `.pt` file.

Bytes stay on the disk until a tensor is asked for: safetensors files are mapped, and a tensor goes to its device in one
copy, or on the CPU in none.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moontune.errors import CheckpointCorrupt, InvalidField
from moontune.model.tensor_file import PICKLED, read_tensors
from moontune.model.weight_names import own_name

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as its file has it. dtype: in safetensors' letters (`F32`, `BF16`, `F8_E4M3`, `U8`, ...)."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """The files of a base's weights, in a stable order; raises InvalidField when there are none."""
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    pickled = sorted(path for path in folder.glob("*") if path.suffix in PICKLED)
    if len(pickled) != 1:
        allowed = f"a folder with {WEIGHTS_FILE}, {INDEX_FILE}, or one file ending in {', '.join(PICKLED)}"
        raise InvalidField.of("base", str(folder), allowed)
    return pickled


class WeightFiles:
    """The open files of a folder. Use it in a `with`."""

    def __init__(self, folder: Path, device: str) -> None:
        """`device`: where tensors are to be. Raises InvalidField or CheckpointCorrupt as the files are opened."""
        self._paths, self._device = weight_files(folder), device
        self._readers: dict[str, Any] = {}
        self._pickled: dict[str, Tensor] = {}
        self.stored: Mapping[str, Stored] = {}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        found: dict[str, Stored] = {}
        with self._stack:
            for path in self._paths:
                found.update(self._open_pickled(path) if path.suffix in PICKLED else self._open(path))
            self._stack = self._stack.pop_all()
        self.stored = found
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.clear()
        self._pickled.clear()
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """A tensor by its stored name, on the device."""
        if name in self._pickled:
            return self._pickled[name].to(self._device)
        return cast("Tensor", self._readers[name].get_tensor(name))

    def _open(self, path: Path) -> dict[str, Stored]:
        try:
            reader = self._stack.enter_context(cast("Any", safe_open(path, framework="pt", device=self._device)))
            parts = {name: reader.get_slice(name) for name in cast("list[str]", reader.keys())}
        except (SafetensorError, OSError) as error:
            raise CheckpointCorrupt(f"{path} is not a whole safetensors file: {error}") from error
        self._readers |= dict.fromkeys(parts, reader)
        return {name: Stored(tuple(part.get_shape()), cast("str", part.get_dtype())) for name, part in parts.items()}

    def _open_pickled(self, path: Path) -> dict[str, Stored]:
        self._pickled = read_tensors(path, mapped=True, also=(torch.uint8,))
        return {
            name: Stored(tuple(tensor.shape), _LETTERS.get(tensor.dtype, str(tensor.dtype)))
            for name, tensor in self._pickled.items()
        }


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the stored tensors, by the names that they have here."""
    with WeightFiles(folder, "cpu") as files:
        return {own_name(name): stored.shape for name, stored in files.stored.items()}


_LETTERS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
}


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    try:
        values = cast("dict[str, object]", json.loads(index.read_text(encoding="utf-8"))["weight_map"]).values()
        names = {name for name in values if isinstance(name, str)}
        if len(names) != len(set(values)):
            raise TypeError("its weight_map names files by something that is not text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(f"{index} is not a safetensors index: {error}") from error
    if strange := sorted(name for name in names if Path(name).name != name):
        raise CheckpointCorrupt(f"{index} names files outside its folder: {', '.join(strange)}")
    if absent := sorted(name for name in names if not (folder / name).is_file()):
        raise CheckpointCorrupt(f"{folder} lacks {', '.join(absent)}, named by {INDEX_FILE}")
    return [folder / name for name in sorted(names)]
