"""The body of a train step: read group by group, so that memory does not grow with the number of groups.

The body may weigh 256 MiB. It is parsed twice from disk: once to refuse what is wrong before anything is sent, and
once more, while the groups stream to the trainer.
"""

from collections.abc import Collection, Iterator
from typing import Any, cast

import ijson
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from moontune.values.training import MAX_GROUPS, Group
from services.gateway.groups import GroupReader
from services.gateway.schemas import GroupBody, RlGroupBody, SftGroupBody, StepFields
from services.gateway.spooled_body import SpooledBody

MOST_DEPTH = 64
EVENT_BYTES = 64
"""What one JSON value is counted with beside its text: about what it takes as an object."""

_GROUPS = "groups"
_GROUP = TypeAdapter(GroupBody)
_Event = tuple[str, object]


def read_fields(body: SpooledBody, reader: GroupReader, group_bytes: int) -> tuple[StepFields, int]:
    """Everything but the groups, and how many groups there are; every group is checked. Blocking.

    Args:
        body: the body.
        reader: checks the groups; what it makes of them is dropped.
        group_bytes: most bytes of one group once parsed, roughly.

    Raises:
        RequestValidationError: not JSON, or of another shape. InvalidField: values that contradict each other.
    """
    fields: dict[str, object] = {}
    count = 0
    for key, value in _top_level(body, group_bytes):
        if key == _GROUPS and isinstance(value, _Item):
            if count >= MAX_GROUPS:
                raise _problem("too_long", (_GROUPS,), f"at most {MAX_GROUPS} groups", "more")
            reader.read(_group(value.value, count), f"groups[{count}]")
            count += 1
        elif key in fields:
            raise _problem("twice", (key,), "each field once", "given twice")
        else:
            fields[key] = value
    given = fields.pop(_GROUPS, None)
    if given is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body", _GROUPS), "msg": "", "input": fields}])
    if not isinstance(given, _Opened):
        raise _problem("list_type", (_GROUPS,), "Input should be a valid list", given)
    if count == 0:
        raise _problem("too_short", (_GROUPS,), "List should have at least 1 item", [])
    try:
        return StepFields.model_validate(fields), count
    except ValidationError as error:
        raise _refused(error, ()) from None


class StepGroups(Collection[Group]):
    """The groups of a body that `read_fields` has checked, made anew from disk each time they are iterated."""

    def __init__(self, body: SpooledBody, reader: GroupReader, count: int, group_bytes: int) -> None:
        self._body, self._reader, self._count, self._group_bytes = body, reader, count, group_bytes

    def __len__(self) -> int:
        return self._count

    def __contains__(self, group: object) -> bool:
        return any(group == one for one in self)

    def __iter__(self) -> Iterator[Group]:
        index = 0
        for _, value in _top_level(self._body, self._group_bytes):
            if isinstance(value, _Item):
                yield self._reader.read(_group(value.value, index), f"groups[{index}]")
                index += 1


class _Item:
    """One element of `groups`."""

    def __init__(self, value: object) -> None:
        self.value = value


class _Opened:
    """`groups` is a list; its elements follow."""


def _top_level(body: SpooledBody, group_bytes: int) -> Iterator[tuple[str, object]]:
    """Keys and values of the body's object; `groups` as one entry that opens it and one for each element."""
    try:
        # use_float: a number beyond 64 bits is an error; without it ijson's C parser goes on with a broken interpreter
        # state after an integer of more digits than Python converts, which has ended in a crash.
        parsed = ijson.basic_parse(cast("Any", body.reader()), buf_size=64 * 1024, use_float=True)
        events = cast("Iterator[_Event]", parsed)
        if next(events, ("", None))[0] != "start_map":
            raise _problem("model_type", (), "Input should be a JSON object", "another value")
        for event, key in events:
            if event != "map_key":  # the end of the object; reading on finds what must not follow it
                continue
            name, first = str(key), next(events)
            if name != _GROUPS or first[0] != "start_array":
                yield name, _value(first, events, group_bytes)
                continue
            yield name, _Opened()
            while (first := next(events))[0] != "end_array":
                yield name, _Item(_value(first, events, group_bytes))
    except (ijson.JSONError, UnicodeDecodeError, ValueError, StopIteration) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body", 0), "msg": "", "input": {}, "ctx": {"error": reason}}]
        ) from None


def _value(first: _Event, events: Iterator[_Event], most_bytes: int) -> object:
    """One JSON value, from its first event to its last."""
    builder, depth, size, event = ijson.ObjectBuilder(), 0, 0, first
    while True:
        name, value = event
        size += EVENT_BYTES + (len(value) if isinstance(value, str) else 0)
        depth += name.startswith("start_") - name.startswith("end_")
        if depth > MOST_DEPTH or size > most_bytes:
            limit = f"{MOST_DEPTH} levels" if depth > MOST_DEPTH else f"{most_bytes} bytes"
            raise _problem("too_large", (), f"one value of the body is more than {limit}", "a larger one")
        builder.event(name, value)
        if depth == 0:
            return cast("object", builder.value)
        event = next(events)


def _group(given: object, index: int) -> RlGroupBody | SftGroupBody:
    try:
        return _GROUP.validate_python(given)
    except ValidationError as error:
        raise _refused(error, (_GROUPS, index)) from None


def _refused(error: ValidationError, under: tuple[str | int, ...]) -> RequestValidationError:
    problems = error.errors(include_url=False, include_context=False)
    return RequestValidationError([{**problem, "loc": ("body", *under, *problem["loc"])} for problem in problems])


def _problem(kind: str, path: tuple[str | int, ...], message: str, given: object) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", *path), "msg": message, "input": given}])
