"""The answers of a golden directory: each key of results.json asked of our model, in upstream's conventions."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from moontune.model.conventions import UPSTREAM
from moontune.model.single import generate
from moontune.values.geometry import Box, Point
from moontune.values.image import Image
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tools.check_golden.golden import Golden
from tools.check_golden.line import Line

IMAGE = Image("0" * 64)
NUMBERS_AGREE = 1e-6
_QUERY = SkillRequest(Skill.QUERY, IMAGE, question="what is it?")
_PLACE = replace(_QUERY, question="what?")
_CAPTION = SkillRequest(Skill.CAPTION, IMAGE)
REQUESTS = {
    "query": _QUERY,
    "query_reasoning": replace(_QUERY, question="how many?", reasoning=True),
    "query_point_ref": replace(_PLACE, spatial_refs=(Point(0.25, 0.5),)),
    "query_box_ref": replace(_PLACE, spatial_refs=(Box(0.1, 0.2, 0.5, 0.8),)),
    "query_text_only": SkillRequest(Skill.QUERY, question="hello"),
    "caption_short": replace(_CAPTION, length="short"),
    "caption_normal": _CAPTION,
    "caption_long": replace(_CAPTION, length="long"),
    "caption_stream": _CAPTION,
    "detect": SkillRequest(Skill.DETECT, IMAGE, object="thing"),
    "point": SkillRequest(Skill.POINT, IMAGE, object="thing"),
}
"""What each key of results.json was asked: the README's prompts. `_variant` behind a key: the same with the adapter."""

VARIANT = "_variant"


def check_outputs(golden: Golden, max_tokens: int, max_objects: int, variant: bool) -> Iterator[Line]:
    """One line for each output; `variant` selects those with the adapter, which must act already."""
    for key, wanted in golden.results.items():
        if key in FACTS or key.endswith(VARIANT) is not variant:
            continue
        request = REQUESTS.get(key.removesuffix(VARIANT))
        if request is None:
            yield Line(key, False, f"an output that this tool does not know; it knows {', '.join(REQUESTS)}")
            continue
        yield _compared(key, answer(golden, request, max_tokens, max_objects), wanted)


def check_facts(golden: Golden) -> Iterator[Line]:
    """One line for each plain fact of results.json: tiling, prefix length, parameters."""
    for key, fact in FACTS.items():
        if fact is not None and key in golden.results:
            ours, theirs = fact(golden), golden.results[key]
            yield Line(key, ours == theirs, f"{ours}" if ours == theirs else f"ours {ours}, stored {theirs}")


FACTS: dict[str, Callable[[Golden], Any] | None] = {
    "torch": None,
    "image_tokens_with_bos": lambda golden: golden.config.prefix_length,
    "tiling": lambda golden: list(golden.crops.tiling),
    "parameters": lambda golden: sum(parameter.numel() for parameter in golden.model.parameters()),
}


def answer(golden: Golden, request: SkillRequest, max_tokens: int, max_objects: int) -> Output:
    """Our greedy answer, in upstream's conventions."""
    objects = request.skill in (Skill.DETECT, Skill.POINT)
    settings = SamplingSettings(temperature=0.0, max_tokens=2048 if objects else max_tokens, max_objects=max_objects)
    request = replace(request, settings=settings)
    image_PD = None if request.image is None else golden.image_PD
    generated = generate(golden.family, request, image_PD, conventions=UPSTREAM)
    return golden.family.read_output(
        request.skill,
        generated.decisions,
        reasoning=request.reasoning,
        thinking_count=generated.thinking_count,
        conventions=UPSTREAM,
    )


def as_upstream(output: Output) -> Any:
    """An output in the form of the public code's return values."""
    if isinstance(output, DetectOutput):
        return {"objects": [_fields(box, "x_min", "y_min", "x_max", "y_max") for box in output.objects]}
    if isinstance(output, PointOutput):
        return {"points": [_fields(point, "x", "y") for point in output.points]}
    if isinstance(output, CaptionOutput):
        return {"caption": output.caption}
    said: dict[str, Any] = {}
    if (thought := cast("QueryOutput", output).reasoning) is not None:
        grounding = [
            {"start_idx": span.start, "end_idx": span.end, "points": [[point.x, point.y] for point in span.points]}
            for span in thought.grounding
        ]
        said["reasoning"] = {"text": thought.text, "grounding": grounding}
    return {**said, "answer": cast("QueryOutput", output).answer}


def _fields(value: Box | Point, *names: str) -> dict[str, float]:
    return {name: getattr(value, name) for name in names}


def _compared(key: str, output: Output, wanted: Any) -> Line:
    ours = as_upstream(output)
    if isinstance(wanted, str):  # a stream's pieces, joined
        ours = next(iter(ours.values()))
    same = _same(ours, wanted)
    return Line(key, same, _short(ours) if same else f"ours {ours}, stored {wanted}")


def _same(ours: Any, theirs: Any) -> bool:
    """Equal texts, and numbers to NUMBERS_AGREE, wherever they are nested."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, float) or isinstance(theirs, float):
        return bool(np.isclose(ours, theirs, rtol=0, atol=NUMBERS_AGREE))
    return ours == theirs


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
