"""Errors as Moondream's API writes them: `{"error": {message, type, param, code}}` with the right status.

Moondream's client sends a request again on 408, 425, 429, 500, 502, 503, 504 and 520-524: a user's mistake is never
one of those. `code` is our stable reason, `param` the field's path where one is to blame.
"""

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from moontune.errors import Cancelled, Code, ImageTooLarge, MoontuneError
from moontune.telemetry.logs import get_logger
from services.gateway.convert import Json
from services.gateway.wording import http_field, http_message

log = get_logger(__name__)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

_STATUS: dict[Code, tuple[int, str]] = {
    Code.INVALID_ARGUMENT: (400, "invalid_request_error"),
    Code.NOT_FOUND: (404, "not_found_error"),
    Code.ALREADY_EXISTS: (409, "conflict_error"),
    Code.FAILED_PRECONDITION: (409, "conflict_error"),
    Code.UNAUTHENTICATED: (401, "authentication_error"),
    Code.PERMISSION_DENIED: (403, "permission_error"),
    Code.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    Code.UNAVAILABLE: (503, "unavailable_error"),
    Code.DEADLINE_EXCEEDED: (504, "timeout_error"),
    Code.CANCELLED: (499, "cancelled_error"),
    Code.DATA_LOSS: (500, "server_error"),
    # The caller asked for what this build does not have; 501 would read as a fault of the server.
    Code.UNIMPLEMENTED: (404, "not_supported_error"),
    Code.INTERNAL: (500, "server_error"),
}


def error_response(
    status: int, kind: str, message: str, *, code: str, param: str | None = None, retry_after_s: float | None = None
) -> JSONResponse:
    """One error in the API's shape. Statuses 429 and 503 carry Retry-After (whole seconds, 1 unless known)."""
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s or 1.0)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(_body(kind, message, code, param), status_code=status, headers=headers)


def from_moontune(error: MoontuneError) -> JSONResponse:
    """The response of an error of our tree."""
    status = 413 if isinstance(error, ImageTooLarge) else _STATUS[error.code][0]
    told = _told(error)
    return error_response(
        status, told.kind, told.message, code=error.reason, param=told.param, retry_after_s=error.retry_after_s
    )


def error_json(error: MoontuneError) -> Json:
    """The body of that response, for answers whose status has gone out already."""
    told = _told(error)
    return _body(told.kind, told.message, error.reason, told.param)


@dataclass(frozen=True, slots=True)
class _Told:
    kind: str
    message: str
    param: str | None


def _told(error: MoontuneError) -> _Told:
    """An error in the HTTP API's words."""
    field = error.violations[0].field if error.violations else error.metadata.get("field", "")
    return _Told(_STATUS[error.code][1], http_message(error.message, field), http_field(field) or None)


def _body(kind: str, message: str, code: str, param: str | None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def on_moontune(request: Request, error: Exception) -> JSONResponse:
    """Handler of MoontuneError."""
    return from_moontune(cast("MoontuneError", error))


async def on_validation(request: Request, error: Exception) -> JSONResponse:
    """Handler of a body or parameter of the wrong shape: 400, the first bad field as `param`, all in the message."""
    problems = cast("RequestValidationError", error).errors()
    first = problems[0]["loc"] if problems and problems[0]["type"] != "json_invalid" else ()
    return error_response(
        400,
        "invalid_request_error",
        "; ".join(_described(problem) for problem in problems[:8]) or "the request does not have the right shape",
        code="INVALID_FIELD",
        param=_path(first) or None,
    )


def _described(problem: Mapping[str, Any]) -> str:
    """Field, value given (shortened) and what is allowed."""
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    path = _path(problem["loc"]) or "the body"
    if problem["type"] == "missing":
        return f"{path} is missing"
    if problem["type"] == "extra_forbidden":
        return f"{path} is no field of this call; /openapi.json lists those that are"
    return f"{path} is {_SHORT.repr(problem['input'])}: {problem['msg']}"


async def on_text(request: Request, error: Exception) -> JSONResponse:
    """Handler of text that is not Unicode: JSON can spell half a surrogate pair, and nothing can store it."""
    half = cast("UnicodeEncodeError", error)
    message = f"the body holds {half.object[half.start : half.end]!a}, half a surrogate pair; allowed: Unicode text"
    return error_response(400, "invalid_request_error", message, code="INVALID_FIELD")


async def on_departure(request: Request, error: Exception) -> JSONResponse:
    """Handler of a caller that left while its body was read; nobody sees the answer."""
    return from_moontune(Cancelled("the caller left before its body was read"))


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """Handler of the framework's own refusals (no such path, no such method)."""
    status = cast("HTTPException", error).status_code
    code, kind = {404: ("NOT_FOUND", "not_found_error"), 405: ("METHOD_NOT_ALLOWED", "invalid_request_error")}.get(
        status, ("INVALID_REQUEST", "invalid_request_error")
    )
    detail = f"{request.method} {request.url.path}: {cast('HTTPException', error).detail}"
    response = error_response(status, kind, detail, code=code)
    response.headers.update(cast("HTTPException", error).headers or {})
    return response


async def on_bug(request: Request, error: Exception) -> JSONResponse:
    """Handler of everything else: 500, the trace only in the log."""
    log.error("request failed", path=request.url.path, exc_info=error)
    return error_response(500, "server_error", "a fault of the gateway; its log says more", code="INTERNAL")


_UNION_TAGS = ("rl", "sft")
_PART_TAGS, _PART = ("text", "image_url"), re.compile(r"\.content\[\d+\]$")
"""Pydantic names the kind of a chat message's part after its index."""


def _path(location: Sequence[Any]) -> str:
    """`("body", "groups", 0, "rl", "request")` -> `groups[0].request`."""
    path = ""
    for before, part in pairwise(("", *location)):
        if part in _PART_TAGS and isinstance(before, int) and _PART.search(path):
            continue
        if part in ("body", "query", "path", *_UNION_TAGS) and (not path or path.endswith("]") or part in _UNION_TAGS):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
