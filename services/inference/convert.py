"""Requests to values, with the limits of one call; the field mapping itself is `moontune.wire`."""

from collections.abc import Sequence

from moontune.api.inference.v1 import inference_service_pb2 as pb
from moontune.errors import InvalidField

MAX_PAGE = 1000


def page_from(message: pb.ListModelsRequest, names: Sequence[str]) -> tuple[slice, str]:
    """Which of the names to list, and the next page's token. A token is the last name of the page before."""
    if not 0 <= message.page_size <= MAX_PAGE:
        raise InvalidField.of("page_size", message.page_size, f"0 to {MAX_PAGE}")
    if message.page_token and message.page_token not in names:
        raise InvalidField.of("page_token", message.page_token, "next_page_token of the page before, or empty")
    start = names.index(message.page_token) + 1 if message.page_token else 0
    end = start + (message.page_size or 100)
    return slice(start, end), names[end - 1] if end < len(names) else ""
