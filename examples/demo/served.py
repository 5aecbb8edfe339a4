"""Answers from the gateway by model string, over HTTP, as an application would ask for them."""

import base64
import mimetypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from examples.demo.stack import Stack
from moontune.data.predictions import Prediction
from moontune.values.geometry import Box, Point
from moontune.values.output import DetectOutput, Output, PointOutput
from moontune.values.skill import Skill

SAME = 1e-6
"""Coordinates that differ by no more are equal: they passed through JSON as decimal numbers."""

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and the digest of the weights that gave it ("" is the bare base)."""

    output: Output
    adapter_digest: str


def answers(stack: Stack, model: str, asked: Sequence[Prediction], words: str = "") -> list[Answer]:
    """What the gateway says to the same images, in order, asked for the same or (words) for something else."""
    with (
        httpx.Client(base_url=stack.gateway, timeout=60.0, trust_env=False) as client,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        return list(pool.map(lambda one: _ask(client, model, one, words or one.asked), asked))


def same(one: Output, other: Output) -> bool:
    """Whether two answers are the same boxes or points in the same order."""
    ours, theirs = _numbers(one), _numbers(other)
    return len(ours) == len(theirs) and all(abs(a - b) <= SAME for a, b in zip(ours, theirs, strict=True))


def _ask(client: httpx.Client, model: str, asked: Prediction, words: str) -> Answer:
    kind = mimetypes.guess_type(asked.image.name)[0]
    url = f"data:{kind};base64,{base64.b64encode(asked.image.read_bytes()).decode()}"
    answer = client.post(f"/v1/{asked.skill}", json={"model": model, "image_url": url, "object": words})
    if answer.status_code != 200:
        raise SystemExit(f"the gateway answered {answer.status_code} to {model}: {answer.text[:500]}")
    body = answer.json()
    digest = body["moontune"]["adapter_digest"]
    if asked.skill is Skill.DETECT:
        boxes = tuple(Box(o["x_min"], o["y_min"], o["x_max"], o["y_max"]) for o in body["objects"])
        return Answer(DetectOutput(boxes), digest)
    return Answer(PointOutput(tuple(Point(p["x"], p["y"]) for p in body["points"])), digest)


def _numbers(output: Output) -> list[float]:
    if isinstance(output, DetectOutput):
        return [n for box in output.objects for n in (box.x_min, box.y_min, box.x_max, box.y_max)]
    assert isinstance(output, PointOutput)
    return [n for point in output.points for n in (point.x, point.y)]
