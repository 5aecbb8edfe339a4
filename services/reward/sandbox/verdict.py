"""What user code said of one sample, read as data: a grade, or the typed reason why there is none."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

MAX_MAGNITUDE = 1e6
MAX_COMPONENTS = 64
MAX_NAME = 64
MAX_REASON = 2000


class Failure(StrEnum):
    """Why a sample has no grade; the first word of its result's detail, and the label in metrics."""

    LOAD_FAILED = "LOAD_FAILED"
    RAISED = "RAISED"
    BAD_RESULT = "BAD_RESULT"
    CPU_LIMIT = "CPU_LIMIT"
    TIME_LIMIT = "TIME_LIMIT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    CRASHED = "CRASHED"
    GAVE_UP = "GAVE_UP"
    UNREACHABLE = "UNREACHABLE"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grade with its named parts and reason; or reward None with the failure, and its message in `reason`."""

    reward: float | None
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    reason: str = ""
    failure: Failure | None = None

    @classmethod
    def failed(cls, failure: Failure, message: str) -> "Verdict":
        """No grade."""
        return cls(None, reason=message[:MAX_REASON], failure=failure)


class _Refused(ValueError):
    """What came back is not a result; the message says what is wrong with it."""


def verdict_from_json(payload: bytes) -> Verdict:
    """Read one result: {reward, components, reason} or {failure, message}. Anything else is BAD_RESULT."""
    try:
        given: object = json.loads(payload, parse_constant=_refuse_constant)
        if not isinstance(given, dict):
            raise _Refused(f"a result is a number or an object with reward, not {payload[:60]!r}")
        result = cast("dict[str, Any]", given)
        if "failure" in result:
            return _failure(result)
        return Verdict(_number(result.get("reward"), "reward"), _components(result), _reason(result))
    except _Refused as refused:
        return Verdict.failed(Failure.BAD_RESULT, str(refused))
    except (ValueError, RecursionError) as error:
        return Verdict.failed(Failure.BAD_RESULT, f"the result is not JSON: {type(error).__name__}")


def verdict_of_failure(text: str) -> Verdict:
    """From `CODE: message`; a code that is not known counts as CRASHED."""
    code, _, message = text.partition(": ")
    if code in Failure.__members__:
        return Verdict.failed(Failure[code], message)
    return Verdict.failed(Failure.CRASHED, text)


def checked_number(value: object, what: str) -> float:
    """A finite number of at most 1e6 in size. Raises ValueError that says what was given and what to return."""
    return _number(value, what)


def _failure(result: dict[str, Any]) -> Verdict:
    message = result.get("message")
    return verdict_of_failure(f"{result['failure']}: {message if isinstance(message, str) else ''}")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused(f"{what} is {repr(value)[:80]}; return a number")
    if not (math.isfinite(value) and abs(value) <= MAX_MAGNITUDE):
        raise _Refused(f"{what} is {repr(value)[:80]}; return a finite number from -{MAX_MAGNITUDE:g} to 1e+06")
    return float(value)


def _components(result: dict[str, Any]) -> dict[str, float]:
    given = result.get("components", {})
    if not isinstance(given, dict):
        raise _Refused("components is not an object of numbers")
    parts = cast("dict[str, object]", given)
    if len(parts) > MAX_COMPONENTS:
        raise _Refused(f"{len(parts)} components; at most {MAX_COMPONENTS} are kept")
    if any(not 1 <= len(name) <= MAX_NAME or not name.isprintable() for name in parts):
        raise _Refused(f"a component's name is 1 to {MAX_NAME} printable characters")
    return {name: _number(value, f"components[{name!r}]") for name, value in parts.items()}


def _reason(result: dict[str, Any]) -> str:
    reason = result.get("reason", "")
    if not isinstance(reason, str):
        raise _Refused("reason is not text")
    return reason[:MAX_REASON]


def _refuse_constant(name: str) -> float:
    raise _Refused(f"the result holds {name}; return finite numbers")
