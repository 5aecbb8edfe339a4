"""A safetensors file's header, read without torch: which tensors it holds, and whether the file is all there."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moontune.errors import CheckpointCorrupt

MAX_HEADER_BYTES = 100_000_000
"""As the format's own library allows."""
_BITS = {
    **dict.fromkeys(("F64", "I64"), 64),
    **dict.fromkeys(("F32", "I32"), 32),
    **dict.fromkeys(("BF16", "F16", "I16"), 16),
    **dict.fromkeys(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2"), 8),
}
"""Of the dtypes whose sizes are checked."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor: dtype in the format's letters, shape, how many bytes it takes, and where they begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    offset_bytes: int = 0


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name; CheckpointCorrupt when it is cut short, or no such file at all."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = cast("dict[str, dict[str, object]]", json.loads(file.read(length)))
        tensors = {name: _tensor(entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
        wanted = 8 + length + sum(tensor.size_bytes for tensor in tensors.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(f"{path} is not a safetensors file: {error}") from error
    has = path.stat().st_size
    if has != wanted:
        raise CheckpointCorrupt(f"{path} has {has} bytes; its header speaks of {wanted}")
    return tensors


def _tensor(entry: dict[str, object], data_bytes: int) -> StoredTensor:
    start, end = cast("list[int]", entry["data_offsets"])
    shape, dtype = tuple(cast("list[int]", entry["shape"])), cast("str", entry["dtype"])
    bits = _BITS.get(dtype)
    if bits is not None and (end - start) * 8 != math.prod(shape) * bits:
        raise ValueError(f"{dtype} {list(shape)} in {end - start} bytes")
    return StoredTensor(dtype, shape, end - start, data_bytes + start)
