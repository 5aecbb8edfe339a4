"""Tensors from a user's file, safetensors or torch's own `.pt`: read without running anything that is in it."""

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from moontune.errors import CheckpointCorrupt, InvalidField

SAFETENSORS = ".safetensors"
PICKLED = (".pt", ".pth", ".bin")


def only_file(folder: Path) -> Path:
    """The one file of tensors in a folder; InvalidField where there is none, or more than one."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (SAFETENSORS, *PICKLED))
    if len(found) != 1:
        allowed = f"one file ending in {SAFETENSORS} or {', '.join(PICKLED)}"
        raise InvalidField.of("files", [path.name for path in found], allowed)
    return found[0]


def read_tensors(
    path: Path, key: str | None = None, *, mapped: bool = False, also: Collection[torch.dtype] = ()
) -> dict[str, Tensor]:
    """Dense floating-point tensors by name, on the CPU.

    key: where a `.pt` file holds a dictionary of dictionaries, the one to take; a file without it is taken whole.
    mapped: leave a `.pt` file's bytes on the disk until they are read. also: dtypes allowed beside the floating ones.
    Raises CheckpointCorrupt for a damaged file, InvalidField for one that holds anything but tensors, naming what.
    """
    if path.suffix == SAFETENSORS:
        try:
            return safetensors_torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointCorrupt(f"{path} is not a whole safetensors file: {error}") from error
    content = _unpickled(path, mapped)
    if key is not None and isinstance(content, dict) and key in content:
        content = cast("dict[str, object]", content)[key]
    if not isinstance(content, Mapping):
        raise InvalidField.of("file", type(content).__name__, f"{path.name} to hold tensors by name")
    items = cast("Mapping[object, object]", content)
    strange = [f"{name!r} ({_kind(value)})" for name, value in items.items() if not _is_plain(name, value, also)]
    if strange:
        raise InvalidField.of(
            "file", ", ".join(strange[:20]), f"{path.name} to hold dense floating-point tensors alone"
        )
    return {cast("str", name): cast("Tensor", value).detach() for name, value in items.items()}


def _unpickled(path: Path, mapped: bool) -> object:
    try:
        return cast("object", torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except pickle.UnpicklingError as error:
        said = str(error).partition("\n")[0]
        allowed = f"{path.name} to hold tensors and nothing that runs; save it as safetensors ({said})"
        raise InvalidField.of("file", path.name, allowed) from error
    # torch raises whatever its zip and pickle readers meet in a damaged file.
    except Exception as error:
        raise CheckpointCorrupt(f"{path} is not a whole torch file: {error}") from error


def _is_plain(name: object, value: object, also: Collection[torch.dtype]) -> bool:
    """A strided tensor of floats that has its own bytes: no view that claims more elements than the file holds."""
    if not (
        isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    ):
        return False
    held_bytes = value.untyped_storage().nbytes()
    return (value.is_floating_point() or value.dtype in also) and value.numel() * value.element_size() <= held_bytes


def _kind(value: object) -> str:
    return f"{value.layout} {value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
