"""Adapter files on the way: manifests, chunks, imports and exports."""

from collections.abc import Iterable, Iterator, Sequence

from moontune.api.trainer.v1 import adapter_files_pb2, trainer_service_pb2
from moontune.errors import InvalidField
from moontune.values.adapter import (
    CHUNK_BYTES,
    AdapterImport,
    AdapterManifest,
    BundleFile,
    ExportKind,
    ExportManifest,
    FileChunk,
    ImportKind,
)
from moontune.wire.checks import (
    EnumMap,
    at_least,
    each,
    encodes,
    request_id,
    required,
    resource_name,
    sha256_hex,
)
from moontune.wire.finetune import FINETUNE_KINDS, lora_from_proto, lora_to_proto
from moontune.wire.policy import policy_from_proto, policy_to_proto

EXPORT_KINDS = EnumMap(
    {
        ExportKind.PEFT: adapter_files_pb2.EXPORT_KIND_PEFT,
        ExportKind.MERGED: adapter_files_pb2.EXPORT_KIND_MERGED,
        ExportKind.PHOTON: adapter_files_pb2.EXPORT_KIND_PHOTON,
        ExportKind.VARIANT: adapter_files_pb2.EXPORT_KIND_VARIANT,
        ExportKind.INT4: adapter_files_pb2.EXPORT_KIND_INT4,
    }
)
IMPORT_KINDS = EnumMap(
    {
        ImportKind.PEFT: adapter_files_pb2.IMPORT_KIND_PEFT,
        ImportKind.PHOTON: adapter_files_pb2.IMPORT_KIND_PHOTON,
        ImportKind.VARIANT: adapter_files_pb2.IMPORT_KIND_VARIANT,
        ImportKind.COMMUNITY: adapter_files_pb2.IMPORT_KIND_COMMUNITY,
    }
)


def bundle_file_to_proto(file: BundleFile) -> adapter_files_pb2.BundleFile:
    """The message."""
    return adapter_files_pb2.BundleFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)


def bundle_file_from_proto(message: adapter_files_pb2.BundleFile, field: str = "file") -> BundleFile:
    """The value; its name is a bare file name, which a receiver may join to a folder."""
    return BundleFile(
        name=_file_name(message.name, f"{field}.name"),
        size_bytes=at_least(message.size_bytes, 0, f"{field}.size_bytes"),
        sha256=sha256_hex(message.sha256, f"{field}.sha256"),
    )


def _file_name(name: str, field: str) -> str:
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise InvalidField.of(field, name, "a file name without folders that does not begin with a dot")
    return name


def _files(messages: Sequence[adapter_files_pb2.BundleFile], field: str) -> tuple[BundleFile, ...]:
    required(bool(messages), field, "at least one file")
    files = each(field, messages, bundle_file_from_proto)
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        raise InvalidField.of(field, names, "each name once")
    return files


@encodes("manifest")
def adapter_manifest_to_proto(manifest: AdapterManifest) -> adapter_files_pb2.AdapterManifest:
    """The message."""
    return adapter_files_pb2.AdapterManifest(
        policy=policy_to_proto(manifest.policy),
        kind=FINETUNE_KINDS.encode(manifest.kind),
        lora=lora_to_proto(manifest.lora),
        files=[bundle_file_to_proto(file) for file in manifest.files],
    )


def adapter_manifest_from_proto(message: adapter_files_pb2.AdapterManifest, field: str = "manifest") -> AdapterManifest:
    """The value."""
    required(message.HasField("policy"), f"{field}.policy", "a policy version")
    required(message.HasField("lora"), f"{field}.lora", "the adapter's shape")
    return AdapterManifest(
        policy=policy_from_proto(message.policy, f"{field}.policy"),
        lora=lora_from_proto(message.lora, f"{field}.lora"),
        files=_files(message.files, f"{field}.files"),
        kind=FINETUNE_KINDS.decode(message.kind, f"{field}.kind"),
    )


def file_chunk_to_proto(chunk: FileChunk) -> adapter_files_pb2.FileChunk:
    """The message."""
    return adapter_files_pb2.FileChunk(file=chunk.file, data=chunk.data)


def file_chunk_from_proto(message: adapter_files_pb2.FileChunk, field: str = "chunk") -> FileChunk:
    """The value; 1 to 1048576 bytes of a file."""
    if not 1 <= len(message.data) <= CHUNK_BYTES:
        raise InvalidField.of(f"{field}.data", f"{len(message.data)} bytes", f"1 to {CHUNK_BYTES} bytes")
    return FileChunk(_file_name(message.file, f"{field}.file"), message.data)


def chunks_of(file: str, blocks: Iterable[bytes]) -> Iterator[FileChunk]:
    """The chunks of one file from its bytes in blocks of any size; an empty file has none."""
    for block in blocks:
        for start in range(0, len(block), CHUNK_BYTES):
            yield FileChunk(file, block[start : start + CHUNK_BYTES])


@encodes("header")
def adapter_import_to_proto(order: AdapterImport) -> trainer_service_pb2.ImportAdapterHeader:
    """The header of an import's stream."""
    return trainer_service_pb2.ImportAdapterHeader(
        request_id=order.request_id,
        name=order.name,
        base=order.base,
        kind=IMPORT_KINDS.encode(order.kind),
        alpha=order.alpha,
        files=[bundle_file_to_proto(file) for file in order.files],
    )


def adapter_import_from_proto(message: trainer_service_pb2.ImportAdapterHeader, field: str = "header") -> AdapterImport:
    """The value."""
    alpha = message.alpha if message.HasField("alpha") else None
    if alpha is not None and not 0.0 < alpha <= 4096.0:
        raise InvalidField.of(f"{field}.alpha", alpha, "more than 0 and at most 4096")
    return AdapterImport(
        request_id=request_id(message.request_id, f"{field}.request_id"),
        name=resource_name(message.name, f"{field}.name"),
        kind=IMPORT_KINDS.decode(message.kind, f"{field}.kind"),
        files=_files(message.files, f"{field}.files"),
        base=message.base,
        alpha=alpha,
    )


@encodes("header")
def export_manifest_to_proto(manifest: ExportManifest) -> trainer_service_pb2.ExportHeader:
    """The header of an export's stream."""
    return trainer_service_pb2.ExportHeader(
        policy=policy_to_proto(manifest.policy),
        kind=EXPORT_KINDS.encode(manifest.kind),
        files=[bundle_file_to_proto(file) for file in manifest.files],
    )


def export_manifest_from_proto(message: trainer_service_pb2.ExportHeader, field: str = "header") -> ExportManifest:
    """The value."""
    required(message.HasField("policy"), f"{field}.policy", "a policy version")
    return ExportManifest(
        policy=policy_from_proto(message.policy, f"{field}.policy"),
        kind=EXPORT_KINDS.decode(message.kind, f"{field}.kind"),
        files=_files(message.files, f"{field}.files"),
    )
