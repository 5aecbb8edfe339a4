"""What reading a message strictly takes: presence, enums, finite numbers, digests, sizes."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, ParamSpec, TypeVar

from moontune.errors import InvalidField

Value = TypeVar("Value")
Number = TypeVar("Number", bound=int)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_REQUEST_ID = 128
MAX_NAME = 128


class EnumMap(Generic[Value, Number]):
    """A one-to-one map between values and an enum's numbers, without the unspecified 0."""

    def __init__(self, numbers: Mapping[Value, Number]) -> None:
        self._numbers = dict(numbers)
        self._values = {number: value for value, number in numbers.items()}

    def encode(self, value: Value) -> Number:
        """The number of a value."""
        return self._numbers[value]

    def decode(self, number: Number, field: str) -> Value:
        """The value of a number; InvalidField, naming `field`, for unspecified and for numbers of a newer contract."""
        value = self._values.get(number)
        if value is None:
            given = int(number) or "unspecified"
            raise InvalidField.of(field, given, ", ".join(str(known) for known in self._numbers))
        return value

    def decode_or(self, number: Number, field: str, default: Value) -> Value:
        """The value of a number, `default` for unspecified."""
        return default if int(number) == 0 else self.decode(number, field)


def required(present: bool, field: str, what: str) -> None:
    """Raise InvalidField, naming `field`, unless a field that the contract requires is there."""
    if not present:
        raise InvalidField.of(field, None, what)


def finite(value: float, field: str) -> float:
    """The value; InvalidField if it is NaN or infinite."""
    if not math.isfinite(value):
        raise InvalidField.of(field, value, "a finite number")
    return value


def finite_map(values: Mapping[str, float], field: str) -> dict[str, float]:
    """A copy of named numbers, each finite."""
    return {name: finite(value, f"{field}[{name!r}]") for name, value in values.items()}


def at_least(value: int, least: int, field: str) -> int:
    """The value; InvalidField if it is less than `least`."""
    if value < least:
        raise InvalidField.of(field, value, f"{least} or more")
    return value


def text(value: str, field: str) -> str:
    """The text; InvalidField if it is empty."""
    if not value:
        raise InvalidField.of(field, value, "text that is not empty")
    return value


def sha256_hex(value: str, field: str) -> str:
    """The digest; InvalidField unless it is 64 lower-case hex digits."""
    if not _SHA256.fullmatch(value):
        raise InvalidField.of(field, value, "a SHA-256 of 64 lower-case hex digits")
    return value


def request_id(value: str, field: str = "request_id") -> str:
    """An idempotency id; InvalidField unless it has 1 to 128 characters."""
    if not 1 <= len(value) <= MAX_REQUEST_ID:
        raise InvalidField.of(field, value, f"1 to {MAX_REQUEST_ID} characters")
    return value


def resource_name(value: str, field: str = "name") -> str:
    """A name that a user gives; InvalidField unless it has 1 to 128 printable characters and is not blank."""
    if not (value.strip() and len(value) <= MAX_NAME and value.isprintable()):
        raise InvalidField.of(field, value, f"1 to {MAX_NAME} printable characters, not all blank")
    return value


def each(field: str, items: Iterable[Value], read: Callable[[Value, str], Result]) -> tuple[Result, ...]:
    """Every item read, with its path `field[index]`."""
    return tuple(read(item, f"{field}[{index}]") for index, item in enumerate(items))


def encodes(noun: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Wrap a `<noun>_to_proto` so that a number too large for its field, or text that is not Unicode, is InvalidField.

    Values hold Python's unbounded integers; without this a caller would meet protobuf's ValueError.
    """

    def wrap(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            try:
                return function(*args, **kwargs)
            except ValueError as error:
                raise InvalidField.of(noun, str(error), "values that fit the contract's fields") from error

        return call

    return wrap
