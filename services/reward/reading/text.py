"""The words of an answer, and the JSON in them. Everything here is linear in the text and bounded."""

import json
from collections.abc import Iterable
from typing import NoReturn, TypeGuard, cast

from moontune.values.output import CaptionOutput, QueryOutput
from moontune.values.reward import RewardSample
from services.reward.reading.unreadable import Unreadable

MAX_JSON_CHARACTERS = 65_536
MAX_DEPTH = 100
"""Lists within lists; what Python's parser takes differs by version, and a schema's check goes as deep."""
OPEN, CLOSE = "<answer>", "</answer>"
_NOTHING = frozenset({"", "none", "null", "nothing", "no objects", "[]"})
_decoder = json.JSONDecoder(parse_constant=lambda name: _refuse_constant(name))


def raw_text(sample: RewardSample) -> str:
    """The answer or caption as it was written; "" for outputs without text. Reasoning is not part of it."""
    if isinstance(sample.output, QueryOutput):
        return sample.output.answer
    return sample.output.caption if isinstance(sample.output, CaptionOutput) else ""


def whole_text(sample: RewardSample) -> str:
    """The reasoning, where there is any, and the answer."""
    reasoning = sample.output.reasoning if isinstance(sample.output, QueryOutput) else None
    return raw_text(sample) if reasoning is None else f"{reasoning.text}\n{raw_text(sample)}"


def answer_text(sample: RewardSample) -> str:
    """What stands between `<answer>` and `</answer>`; the whole text without tags. Unreadable for any other number."""
    text = raw_text(sample)
    opened, closed = text.count(OPEN), text.count(CLOSE)
    if opened == closed == 0:
        return text
    start, end = text.find(OPEN) + len(OPEN), text.find(CLOSE)
    if opened != 1 or closed != 1 or end < start:
        raise Unreadable(f"{opened} {OPEN} and {closed} {CLOSE} in the answer; one pair or none is read")
    return text[start:end]


def answer_json(sample: RewardSample) -> object:
    """The one JSON value of an answer: all of it, a fenced block in it, or what its first bracket opens.

    None for an answer that says that there is nothing (`none`, nothing at all). Unreadable for what does not parse.
    """
    text = answer_text(sample).strip()
    if text.strip(" .").casefold() in _NOTHING:
        return None
    if len(text) > MAX_JSON_CHARACTERS:
        raise Unreadable(f"{len(text)} characters; JSON of at most {MAX_JSON_CHARACTERS} is read")
    start = min((place for place in (text.find("["), text.find("{")) if place >= 0), default=-1)
    if start < 0:
        raise Unreadable("no JSON list or object in the answer")
    try:
        value, end = cast("tuple[object, int]", _decoder.raw_decode(text, start))
    except (ValueError, RecursionError) as error:  # the second is for brackets within brackets without end
        raise Unreadable(f"not JSON: {str(error)[:80]}") from error
    if any(bracket in text[end:] for bracket in "[{"):
        raise Unreadable("more than one JSON value in the answer")
    if _depth(value) > MAX_DEPTH:
        raise Unreadable(f"JSON of more than {MAX_DEPTH} lists within lists")
    return value


def _depth(value: object) -> int:
    """How many lists and objects are within one another; the count ends where it is too deep."""
    depth, level = 0, _containers([value])
    while level and depth <= MAX_DEPTH:
        depth, level = depth + 1, _containers(child for one in level for child in _children(one))
    return depth


def _containers(values: Iterable[object]) -> list[object]:
    return [value for value in values if isinstance(value, list | dict)]


def _children(value: object) -> Iterable[object]:
    return cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)


def is_number(value: object) -> TypeGuard[float | int]:
    """Whether a JSON value is a number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
