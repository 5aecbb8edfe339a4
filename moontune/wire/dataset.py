"""Datasets of the jobs service and their uploads."""

from moontune.api.jobs.v1 import dataset_pb2, dataset_service_pb2
from moontune.values.dataset import DatasetFormat, DatasetProblem, DatasetState, DatasetUpload, StoredDataset
from moontune.wire.checks import (
    EnumMap,
    at_least,
    each,
    encodes,
    request_id,
    required,
    resource_name,
    sha256_hex,
    text,
)
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto

DATASET_FORMATS = EnumMap(
    {
        DatasetFormat.COCO: dataset_pb2.DATASET_FORMAT_COCO,
        DatasetFormat.JSONL: dataset_pb2.DATASET_FORMAT_JSONL,
        DatasetFormat.VLM_R1: dataset_pb2.DATASET_FORMAT_VLM_R1,
        DatasetFormat.YOLO: dataset_pb2.DATASET_FORMAT_YOLO,
        DatasetFormat.HUGGING_FACE: dataset_pb2.DATASET_FORMAT_HUGGING_FACE,
        DatasetFormat.CSV: dataset_pb2.DATASET_FORMAT_CSV,
    }
)
DATASET_STATES = EnumMap(
    {
        DatasetState.UPLOADING: dataset_pb2.DATASET_STATE_UPLOADING,
        DatasetState.CHECKING: dataset_pb2.DATASET_STATE_CHECKING,
        DatasetState.READY: dataset_pb2.DATASET_STATE_READY,
        DatasetState.REFUSED: dataset_pb2.DATASET_STATE_REFUSED,
    }
)


def _format_to_proto(format: DatasetFormat | None) -> dataset_pb2.DatasetFormat.ValueType:
    return dataset_pb2.DATASET_FORMAT_UNSPECIFIED if format is None else DATASET_FORMATS.encode(format)


def _format_from_proto(number: dataset_pb2.DatasetFormat.ValueType, field: str) -> DatasetFormat | None:
    unspecified = number == dataset_pb2.DATASET_FORMAT_UNSPECIFIED
    return None if unspecified else DATASET_FORMATS.decode(number, field)


@encodes("dataset")
def dataset_to_proto(dataset: StoredDataset) -> dataset_pb2.Dataset:
    """The message."""
    return dataset_pb2.Dataset(
        id=dataset.id,
        name=dataset.name,
        organisation=dataset.organisation,
        format=_format_to_proto(dataset.format),
        state=DATASET_STATES.encode(dataset.state),
        digest=dataset.digest,
        received_bytes=dataset.received_bytes,
        size_bytes=dataset.size_bytes,
        sample_count=dataset.sample_count,
        problems=[
            dataset_pb2.DatasetProblem(file=problem.file, line=problem.line, message=problem.message)
            for problem in dataset.problems
        ],
        created_at=timestamp_to_proto(dataset.created_at),
    )


def dataset_from_proto(message: dataset_pb2.Dataset, field: str = "dataset") -> StoredDataset:
    """The value."""
    required(message.HasField("created_at"), f"{field}.created_at", "a time")
    return StoredDataset(
        id=text(message.id, f"{field}.id"),
        name=text(message.name, f"{field}.name"),
        organisation=text(message.organisation, f"{field}.organisation"),
        state=DATASET_STATES.decode(message.state, f"{field}.state"),
        received_bytes=message.received_bytes,
        size_bytes=message.size_bytes,
        created_at=timestamp_from_proto(message.created_at, f"{field}.created_at"),
        format=_format_from_proto(message.format, f"{field}.format"),
        digest=message.digest,
        sample_count=message.sample_count if message.HasField("sample_count") else None,
        problems=each(f"{field}.problems", message.problems, _problem_from_proto),
    )


def _problem_from_proto(message: dataset_pb2.DatasetProblem, field: str) -> DatasetProblem:
    line = message.line if message.HasField("line") else None
    return DatasetProblem(text(message.message, f"{field}.message"), message.file, line)


@encodes("header")
def dataset_upload_to_proto(upload: DatasetUpload) -> dataset_service_pb2.UploadHeader:
    """The header of an upload's stream."""
    return dataset_service_pb2.UploadHeader(
        request_id=upload.request_id,
        name=upload.name,
        format=_format_to_proto(upload.format),
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        offset_bytes=upload.offset_bytes,
    )


def dataset_upload_from_proto(message: dataset_service_pb2.UploadHeader, field: str = "header") -> DatasetUpload:
    """The value."""
    return DatasetUpload(
        request_id=request_id(message.request_id, f"{field}.request_id"),
        name=resource_name(message.name, f"{field}.name"),
        size_bytes=at_least(message.size_bytes, 1, f"{field}.size_bytes"),
        format=_format_from_proto(message.format, f"{field}.format"),
        sha256=sha256_hex(message.sha256, f"{field}.sha256") if message.sha256 else "",
        offset_bytes=at_least(message.offset_bytes, 0, f"{field}.offset_bytes"),
    )
