"""User code in Python: `score(sample)` over a batch's samples. Runs in the batch's own process.

Whatever this process does to itself, it can only spoil its own batch: the host reads its answers as data, strictly.
"""

import builtins
import sys
import traceback
from json import dumps, loads
from typing import Any, cast

from services.reward.sandbox.inside import frames
from services.reward.sandbox.inside.zygote import Batch

FILE = "reward.py"
MESSAGE_CHARACTERS = 500
PRINTED_CHARACTERS = 64 * 1024


def grade(batch: Batch, first: int, pipe: int) -> None:
    """Grade samples[first:] and write one answer each to the pipe."""
    names: dict[str, Any] = {"__name__": "reward", "__file__": FILE, "__builtins__": builtins}
    printed = sys.stdout = sys.stderr = _Printed()
    try:
        exec(compile(batch.source, FILE, "exec"), names)  # noqa: S102  (this is what the jail is for)
        score = names.get("score")
        if not callable(score):
            raise _Bad("LOAD_FAILED", "the file defines no function score(sample)")
    except _Bad as bad:
        frames.write_frame(pipe, f"{bad.code}: {bad}".encode())
        return
    except BaseException as error:  # SystemExit too is only a failed load
        frames.write_frame(pipe, f"LOAD_FAILED: {_described(error)}".encode()[:MESSAGE_CHARACTERS])
        return
    frames.write_frame(pipe, frames.LOADED)
    for text in batch.samples[first:]:
        printed.left = PRINTED_CHARACTERS
        frames.write_frame(pipe, _graded(score, text))


def _graded(score: Any, text: bytes) -> bytes:
    """One sample's answer, as JSON: {reward, components, reason} or {failure, message}."""
    try:
        return dumps(_plain(score(loads(text)))).encode()
    except _Bad as bad:
        return _failure(bad.code, str(bad))
    except MemoryError:
        return _failure("MEMORY_LIMIT", "ran out of memory")
    except BaseException as error:  # whatever it is, it is this sample's alone
        return _failure("RAISED", _described(error))


def _plain(value: Any) -> dict[str, Any]:
    """What the function returned as JSON's types; numpy's numbers become Python's."""
    if not isinstance(value, dict):
        return {"reward": _number(value, "score(sample)")}
    result = cast("dict[str, Any]", value)
    plain = {"reward": _number(result.get("reward"), "reward"), "reason": result.get("reason", "")}
    components: Any = result.get("components", {})
    if type(components) is not dict:
        raise _Bad("BAD_RESULT", f"components is a {type(components).__name__}; return a dict of numbers")
    parts = cast("dict[object, Any]", components)
    return plain | {"components": {str(name): _number(part, f"components[{name!r}]") for name, part in parts.items()}}


def _number(value: Any, what: str) -> float:
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if type(value) not in (int, float):
        shown = repr(value)[:80]
        raise _Bad("BAD_RESULT", f"{what} is {shown} ({type(value).__name__}); return a number, or a dict with reward")
    try:
        return float(value)
    except OverflowError:
        raise _Bad("BAD_RESULT", f"{what} is too large a number") from None


def _failure(code: str, message: str) -> bytes:
    return dumps({"failure": code, "message": message[:MESSAGE_CHARACTERS]}).encode()


def _described(error: BaseException) -> str:
    """The error and the line of user code that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"


class _Bad(Exception):
    """A result or a file that is not what it has to be."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Printed:
    """Where user code prints: counted, not kept."""

    def __init__(self) -> None:
        self.left = PRINTED_CHARACTERS

    def write(self, text: str) -> int:
        self.left -= len(text)
        if self.left < 0:
            raise _Bad("OUTPUT_LIMIT", f"printed more than {PRINTED_CHARACTERS} characters for one sample")
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""
