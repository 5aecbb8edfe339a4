"""Datasets as the jobs service keeps them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DatasetFormat(StrEnum):
    """What form an upload's files have."""

    COCO = "coco"
    JSONL = "jsonl"
    VLM_R1 = "vlm_r1"
    YOLO = "yolo"
    HUGGING_FACE = "hugging_face"
    CSV = "csv"


class DatasetState(StrEnum):
    """uploading -> checking -> ready or refused."""

    UPLOADING = "uploading"
    CHECKING = "checking"
    READY = "ready"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class DatasetProblem:
    """One fault: in which file ("" the upload as a whole), at which line from 1 (None: the file as a whole)."""

    message: str
    file: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A dataset of an organisation. format None: not found out yet. digest "": not all bytes are here."""

    id: str
    name: str
    organisation: str
    state: DatasetState
    received_bytes: int
    size_bytes: int
    created_at: datetime
    format: DatasetFormat | None = None
    digest: str = ""
    sample_count: int | None = None
    problems: tuple[DatasetProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetUpload:
    """What an upload is. format None: found out. sha256 "": not checked. offset_bytes: sent by earlier streams."""

    request_id: str
    name: str
    size_bytes: int
    format: DatasetFormat | None = None
    sha256: str = ""
    offset_bytes: int = 0
