"""Weights written part by part: memory holds one file's tensors, however large the whole."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from moontune.model.weight_files import INDEX_FILE, WEIGHTS_FILE

SHARD_BYTES = 4 << 30
"""Most bytes of tensors in one file: Moondream 2 in bf16 is one, as its public code wants it."""


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as they come: `model.safetensors`, or numbered files and their index where one does not do.

    A tensor larger than `shard_bytes` has a file of its own.
    """
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    size_bytes = total_bytes = 0

    def flush() -> None:
        save_file(held, folder / _temporary(len(shards)), metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and size_bytes + tensor.nbytes > shard_bytes:
            flush()
            size_bytes = 0
        held[name] = tensor.contiguous()
        size_bytes, total_bytes = size_bytes + tensor.nbytes, total_bytes + tensor.nbytes
    flush()
    _name(shards, total_bytes, folder)


def _name(shards: list[list[str]], total_bytes: int, folder: Path) -> None:
    """Only now is it known how many files there are."""
    if len(shards) == 1:
        (folder / _temporary(0)).replace(folder / WEIGHTS_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / _temporary(number)).replace(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _temporary(number: int) -> str:
    return f"part-{number:05}"
