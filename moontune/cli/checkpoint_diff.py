"""What is different between two checkpoints: their figures, and their adapters tensor by tensor. Torch-free."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moontune.checkpoints.digest import ADAPTER_MODEL_FILE
from moontune.checkpoints.safetensors_header import StoredTensor, read_header
from moontune.clients.trainer import TrainerClient
from moontune.errors import CheckpointCorrupt
from moontune.values.finetune import Checkpoint, CheckpointRef

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}
Row = dict[str, object]


async def differences(client: TrainerClient, first: CheckpointRef, second: CheckpointRef) -> list[Row]:
    """A row for each figure and tensor that differs: `what`, its value in both, and the relative change.

    A tensor's values are its norms, its change is the norm of the difference over the first's norm.
    """
    one, other = await client.get_checkpoint(first), await client.get_checkpoint(second)
    if one.adapter_digest == other.adapter_digest:
        return list(_figures(one, other))
    with tempfile.TemporaryDirectory() as scratch:
        folders = Path(scratch, "first"), Path(scratch, "second")
        for checkpoint, folder in zip((one, other), folders, strict=True):
            await client.download_adapter(checkpoint.finetune_id, folder, step=checkpoint.step)
        return [*_figures(one, other), *_tensors(*(folder / ADAPTER_MODEL_FILE for folder in folders))]


def _figures(one: Checkpoint, other: Checkpoint) -> Iterator[Row]:
    for name in sorted({*one.metrics, *other.metrics}):
        first, second = one.metrics.get(name), other.metrics.get(name)
        if first != second:
            change = None if first is None or second is None or not first else (second - first) / abs(first)
            yield _row(name, first, second, change)


def _tensors(first: Path, second: Path) -> Iterator[Row]:
    headers = read_header(first), read_header(second)
    for name in sorted({*headers[0], *headers[1]}):
        if name not in headers[0] or name not in headers[1] or headers[0][name].shape != headers[1][name].shape:
            shapes = (str(list(header[name].shape)) if name in header else "-" for header in headers)
            yield {"what": name, "first": next(shapes), "second": next(shapes), "change": "-"}
            continue
        one, other = _values(first, headers[0][name]), _values(second, headers[1][name])
        moved = float(np.linalg.norm(other - one))
        if moved:
            norm = float(np.linalg.norm(one))
            yield _row(name, norm, float(np.linalg.norm(other)), moved / norm if norm else math.inf)


def _values(path: Path, tensor: StoredTensor) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise CheckpointCorrupt(f"{path} holds {tensor.dtype}; an adapter is saved as one of {', '.join(DTYPES)}")
    count = tensor.size_bytes // dtype.itemsize
    return np.fromfile(path, dtype, count, offset=tensor.offset_bytes).astype(np.float64)


def _row(what: str, first: float | None, second: float | None, change: float | None) -> Row:
    return {"what": what, "first": _shown(first), "second": _shown(second), "change": _shown(change, ".2%")}


def _shown(value: float | None, form: str = ".6g") -> str:
    return "-" if value is None else f"{value:{form}}"
