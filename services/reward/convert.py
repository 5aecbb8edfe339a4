"""Requests to values, with the limits of one call; the field mapping itself is `moontune.wire`."""

from collections.abc import Sequence

from moontune.api.reward.v1 import report_pb2, reward_pb2, reward_service_pb2
from moontune.errors import InvalidField
from moontune.values.reward import RewardSample, RewardSpec
from moontune.values.reward_definition import RewardDefinition
from moontune.values.reward_report import SampleGroup
from moontune.wire.checks import each, required
from moontune.wire.reward import reward_sample_from_proto, reward_spec_from_proto
from moontune.wire.reward_definition import reward_definition_from_proto
from moontune.wire.reward_report import sample_group_from_proto

MAX_SAMPLES = 4096
MAX_GROUPS = 1024
MAX_PAGE = 1000
MAX_REQUEST_ID = 128


def spec_from(message: reward_service_pb2.ScoreRequest | reward_service_pb2.ScoreStreamRequest) -> RewardSpec | None:
    """The spec; None where it is unset or empty: each sample is then graded by its skill's default."""
    return reward_spec_from_proto(message.reward) if message.reward.components else None


def samples_from(messages: Sequence[reward_pb2.RewardSample]) -> tuple[RewardSample, ...]:
    """1..4096 samples."""
    if not 1 <= len(messages) <= MAX_SAMPLES:
        raise InvalidField.of("samples", f"{len(messages)} samples", f"1 to {MAX_SAMPLES} samples")
    return each("samples", messages, reward_sample_from_proto)


def candidate_from(message: reward_service_pb2.ValidateRewardRequest) -> RewardSpec | RewardDefinition | None:
    """What a dry run shall try; None for an empty spec (the defaults)."""
    match message.WhichOneof("candidate"):
        case "reward":
            return reward_spec_from_proto(message.reward) if message.reward.components else None
        case "definition":
            return reward_definition_from_proto(message.definition)
        case None:
            raise InvalidField.of("candidate", None, "reward or definition")


def registration_from(message: reward_service_pb2.RegisterRewardRequest) -> tuple[str, RewardDefinition]:
    """The request id, 1..128 characters, and the definition."""
    if not 1 <= len(message.request_id) <= MAX_REQUEST_ID:
        raise InvalidField.of("request_id", message.request_id, f"1 to {MAX_REQUEST_ID} characters")
    required(message.HasField("definition"), "definition", "a reward")
    return message.request_id, reward_definition_from_proto(message.definition)


def groups_from(messages: Sequence[report_pb2.SampleGroup]) -> tuple[SampleGroup, ...]:
    """1..1024 groups of at least one output."""
    if not 1 <= len(messages) <= MAX_GROUPS:
        raise InvalidField.of("groups", f"{len(messages)} groups", f"1 to {MAX_GROUPS} groups")
    return each("groups", messages, sample_group_from_proto)


def page_from(message: reward_service_pb2.ListRewardsRequest, names: Sequence[str]) -> tuple[slice, str]:
    """Which of the names (sorted) to list, and the next page's token. A token is the last name of the page before."""
    size = message.page_size or 100
    if not 0 < size <= MAX_PAGE:
        raise InvalidField.of("page_size", message.page_size, f"0 to {MAX_PAGE}")
    if message.page_token and message.page_token not in names:
        raise InvalidField.of("page_token", message.page_token, "next_page_token of the page before, or empty")
    start = names.index(message.page_token) + 1 if message.page_token else 0
    end = start + size
    return slice(start, end), names[end - 1] if end < len(names) else ""
