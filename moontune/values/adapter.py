"""Adapter versions: where they are in a process that generates, and their files on the way from one to another."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from moontune.values.finetune import FinetuneKind, LoraSettings, LoraTarget
from moontune.values.model_ref import PolicyVersion

CHUNK_BYTES = 1024 * 1024
"""Most bytes of a file in one message."""


class AdapterState(StrEnum):
    """absent: known to the store only. host, device: in that memory. draining: ends with its requests in flight."""

    ABSENT = "absent"
    LOADING = "loading"
    HOST = "host"
    DEVICE = "device"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """An adapter version in one process. size_bytes is 0 where it was never loaded."""

    policy: PolicyVersion
    state: AdapterState
    size_bytes: int = 0
    pinned: bool = False
    active_requests: int = 0
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file: its name without folders, its size, and the SHA-256 of its bytes (64 hex digits)."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """What a stream of adapter files holds: the exact weights, their shape, and the files in the stream's order."""

    policy: PolicyVersion
    lora: LoraSettings
    files: tuple[BundleFile, ...]
    kind: FinetuneKind = FinetuneKind.LORA


@dataclass(frozen=True, slots=True)
class FileChunk:
    """The next bytes of a file, at most CHUNK_BYTES of them."""

    file: str
    data: bytes


class ExportKind(StrEnum):
    """A form in which an adapter, or the base with it merged in, can leave moontune."""

    PEFT = "peft"
    MERGED = "merged"
    PHOTON = "photon"
    VARIANT = "variant"
    INT4 = "int4"


def download_form(kind: FinetuneKind, lora: LoraSettings) -> ExportKind:
    """The form that the HTTP API hands a checkpoint out in: Photon's where it can carry the adapter, else PEFT's."""
    carries = kind is FinetuneKind.LORA and set(lora.targets) == {LoraTarget.TEXT_MLP}
    return ExportKind.PHOTON if carries else ExportKind.PEFT


class ImportKind(StrEnum):
    """A form in which an adapter can be brought in."""

    PEFT = "peft"
    PHOTON = "photon"
    VARIANT = "variant"
    COMMUNITY = "community"


@dataclass(frozen=True, slots=True)
class AdapterImport:
    """What an import is to make: a finetune `name` on `base` ("" is the process's) from files of a form.

    alpha: scale numerator where the form carries none; None takes the form's default.
    """

    request_id: str
    name: str
    kind: ImportKind
    files: tuple[BundleFile, ...]
    base: str = ""
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """What an export holds: the exact weights, the form, and the files in the stream's order."""

    policy: PolicyVersion
    kind: ExportKind
    files: tuple[BundleFile, ...]
