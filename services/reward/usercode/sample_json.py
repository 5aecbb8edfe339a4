"""A sample as user code sees it: plain JSON, the same in every language.

    {"request": {"skill": "detect", "object": "cat", "image_sha256": "..."},
     "output": {"objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6}]},
     "ground_truth": {"boxes": [...]}, "parameters": {}, "token_count": 12}

`output` is {"answer", "reasoning"?}, {"points"}, {"objects"} or {"caption"}. What is not known is left out.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from moontune.values.geometry import Box, Point
from moontune.values.reward import Parameter, RewardSample


def sample_to_json(sample: RewardSample, parameters: Mapping[str, Parameter]) -> bytes:
    """UTF-8 JSON of one sample."""
    return json.dumps(sample_to_document(sample, parameters), separators=(",", ":")).encode()


def sample_to_document(sample: RewardSample, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The same as mappings, lists, texts and numbers, none of them shared with the sample."""
    request = sample.request
    asked: dict[str, Any] = {"skill": str(request.skill)}
    for name in ("question", "object"):
        if value := getattr(request, name):
            asked[name] = value
    if request.image is not None:
        asked["image_sha256"] = request.image.sha256
    if request.spatial_refs:
        asked["spatial_refs"] = _plain(request.spatial_refs)
    document = {
        "request": asked,
        "output": _plain(sample.output),
        "ground_truth": _plain(sample.ground_truth),
        "parameters": dict(parameters),
    }
    return document if sample.token_count is None else document | {"token_count": sample.token_count}


def _plain(value: Any) -> Any:
    """Frozen dataclasses to mappings without their None, tuples to lists."""
    if isinstance(value, Box):  # most of a sample is boxes and points: spelt out they take a fifth of the time
        return {"x_min": value.x_min, "y_min": value.y_min, "x_max": value.x_max, "y_max": value.y_max}
    if isinstance(value, Point):
        return {"x": value.x, "y": value.y}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if dataclasses.is_dataclass(value):
        pairs = ((name, getattr(value, name)) for name in _fields(type(value)))
        return {name: _plain(part) for name, part in pairs if part is not None}
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value


@cache
def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))
