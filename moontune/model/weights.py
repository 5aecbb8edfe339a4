"""Safetensors files to parameters: one file or a sharded index, straight to the device, every problem reported at once.

Names are the module's own, optionally behind `model.`. Stored fp32, bf16 or fp16; packed and 8-bit forms are refused
until they are supported, never misread.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moontune.errors import CheckpointCorrupt, FieldViolation, InvalidField, NotImplementedYet

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_FLOATS = ("F32", "BF16", "F16")
_PREFIX = "model."


@dataclass(frozen=True, slots=True)
class _Stored:
    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a base, in a stable order; raises InvalidField when there are none."""
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            names = set(cast("dict[str, str]", json.loads(index.read_text(encoding="utf-8"))["weight_map"]).values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointCorrupt(f"{index} is not a safetensors index: {error}") from error
        if strange := sorted(name for name in names if Path(name).name != name):
            raise CheckpointCorrupt(f"{index} names files outside its folder: {', '.join(strange)}")
        if absent := sorted(name for name in names if not (folder / name).is_file()):
            raise CheckpointCorrupt(f"{folder} lacks {', '.join(absent)}, named by {INDEX_FILE}")
        return [folder / name for name in sorted(names)]
    if not (folder / WEIGHTS_FILE).is_file():
        raise InvalidField.of("base", str(folder), f"a folder with {WEIGHTS_FILE} or {INDEX_FILE}")
    return [folder / WEIGHTS_FILE]


def load_weights(module: nn.Module, folder: Path, device: str, dtypes: Mapping[str, torch.dtype]) -> None:
    """Replace every parameter of `module` (built on the meta device) by the stored one, on `device`.

    dtypes: what each parameter computes in. Raises InvalidField listing all missing, unknown and misshapen tensors
    and, after loading, all that are not finite; CheckpointCorrupt for a damaged file.
    """
    with ExitStack() as stack:
        files = {path: _open(path, device, stack) for path in weight_files(folder)}
        stored = dict(_listed(files))
        wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        _check_names(wanted, stored, folder)
        strange: list[str] = []
        for name in wanted:
            tensor = cast("Tensor", files[stored[name].file].get_tensor(stored[name].name))
            if not bool(torch.isfinite(tensor).all()):
                strange.append(name)
            _assign(module, name, tensor.to(dtypes[name]))
    if strange:
        raise _refusal(folder, [(name, "has values that are not finite") for name in strange])


def _open(path: Path, device: str, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(cast("Any", safe_open(path, framework="pt", device=device)))
    except (SafetensorError, OSError) as error:
        raise CheckpointCorrupt(f"{path} is not a whole safetensors file: {error}") from error


def _listed(files: Mapping[Path, Any]) -> Iterator[tuple[str, _Stored]]:
    for path, file in files.items():
        for name in cast("list[str]", file.keys()):
            part = file.get_slice(name)
            shape = tuple(cast("list[int]", part.get_shape()))
            yield name.removeprefix(_PREFIX), _Stored(path, name, shape, cast("str", part.get_dtype()))


def _check_names(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, _Stored], folder: Path) -> None:
    packed = sorted({item.dtype for item in stored.values()} - set(_FLOATS))
    if packed:
        raise NotImplementedYet(f"{folder} stores weights as {', '.join(packed)}; allowed now: {', '.join(_FLOATS)}")
    problems = [(name, "is missing") for name in wanted if name not in stored]
    problems += [(name, "is not a parameter of this architecture") for name in stored if name not in wanted]
    problems += [
        (name, f"has shape {list(stored[name].shape)}, the config needs {list(shape)}")
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    if problems:
        raise _refusal(folder, problems)


def _refusal(folder: Path, problems: list[tuple[str, str]]) -> InvalidField:
    violations = [FieldViolation(f"base.weights.{name}", f"{name} {what}") for name, what in problems]
    listed = "; ".join(violation.description for violation in violations)
    return InvalidField(f"the weights in {folder} do not fit the config: {listed}", violations=violations)


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
