"""Messages of the jobs contract to values: what `moontune.wire` does not have because only this service reads it."""

from ulid import ULID

from moontune.api.jobs.v1 import job_pb2, job_service_pb2
from moontune.errors import InvalidField
from moontune.values.job import JobConfig, JobState
from moontune.wire.checks import request_id
from moontune.wire.job import JOB_STATES, job_config_from_proto

MAX_PAGE = 1000


def new_job_from(message: job_service_pb2.CreateJobRequest) -> tuple[JobConfig, str]:
    """(config, request id), every range checked."""
    if not message.HasField("config"):
        raise InvalidField.of("config", None, "a job config")
    config = job_config_from_proto(message.config)
    config.validate()
    return config, request_id(message.request_id)


def job_id_from(text: str) -> str:
    """A job's id; InvalidField unless it is a ULID."""
    try:
        return str(ULID.from_str(text))
    except ValueError:
        raise InvalidField.of("job_id", text, "a job's id: 26 characters 0-9 A-Z (a ULID)") from None


def page_from(message: job_service_pb2.ListJobsRequest) -> tuple[int, str, JobState | None]:
    """(page size, id of the last job of the page before or "", state or None for any)."""
    size = message.page_size or 100
    if not 0 < size <= MAX_PAGE:
        raise InvalidField.of("page_size", message.page_size, f"0 to {MAX_PAGE}")
    before = job_id_from(message.page_token) if message.page_token else ""
    unset = message.state == job_pb2.JOB_STATE_UNSPECIFIED
    return size, before, None if unset else JOB_STATES.decode(message.state, "state")


def after_sequence_from(message: job_service_pb2.WatchJobRequest) -> int:
    """The sequence number to go on after."""
    if message.after_sequence < 0:
        raise InvalidField.of("after_sequence", message.after_sequence, "0 or more")
    return message.after_sequence
