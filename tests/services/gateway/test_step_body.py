"""A train step's body is read from disk group by group: bounded memory, strict JSON, nothing applied half."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moontune.errors import InvalidField
from services.gateway.spooled_body import SpooledBody, StringBound
from services.gateway.step_body import MOST_DEPTH
from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_bad_input import DETECT, ROLLOUT, post
from tests.services.gateway.test_tuning import BOX, error_of

SFT = {"mode": "sft", "request": DETECT, "target": {"boxes": [BOX]}}
STEP = "/v1/tuning/train_step"


async def test_the_order_of_fields_does_not_matter(running):
    finetune_id = await running.finetune()
    body = json.dumps({"groups": [SFT, SFT], "lr": 1e-4, "expected_step": 0, "finetune_id": finetune_id})
    answer = await post(running, STEP, body.encode())
    assert answer.status_code == 200, answer.text
    (step,) = running.trainer.steps
    assert (len(step.groups), step.expected_step, step.settings.learning_rate) == (2, 0, 1e-4)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"", None, "not JSON"),
        (b"{", None, "not JSON"),
        (b"[]", None, "Input should be a JSON object"),
        (b'{"groups":[]} x', None, "not JSON"),
        (b'{"groups":[]}{}', None, "not JSON"),
        (b'{"groups":[],}', None, "not JSON"),
        (b'{"finetune_id":"x","groups":7}', "groups", "valid list"),
        (b'{"finetune_id":"x"}', "groups", "groups is missing"),
        (b'{"finetune_id":"x","finetune_id":"y","groups":[]}', "finetune_id", "each field once"),
        (b'{"groups":[],"groups":[]}', "groups", "each field once"),
        (b'{"finetune_id":NaN,"groups":[]}', None, "not JSON"),
        (b'{"finetune_id":"\xff","groups":[]}', None, "not JSON"),
        (b'{"x":' + b"[" * 200_000, None, f"more than {MOST_DEPTH} levels"),
        (b'{"x":1e99999999,"groups":[]}', None, "not JSON"),
        (b'{"x":1' + b"0" * 9999 + b',"groups":[]}', None, "not JSON"),
        (b'{"groups":[' + b"{}," * 9 + b"7]}", "groups[0].request", "missing"),
    ],
)
async def test_what_is_not_a_step_is_refused(running, body, param, says):
    answer = await post(running, STEP, body)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, param), error
    assert says in error["message"], error
    assert running.trainer.steps == []


async def test_one_bad_group_at_the_end_of_many_applies_nothing(running):
    finetune_id = await running.finetune()
    bad = {"mode": "rl", "request": DETECT, "rollouts": [ROLLOUT], "rewards": [1.0, 2.0]}
    answer = await post(running, STEP, {"finetune_id": finetune_id, "groups": [SFT] * 255 + [bad]})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "groups[255].rewards")
    many = await post(running, STEP, {"finetune_id": finetune_id, "groups": [SFT] * 257})
    assert (many.status_code, error_of(many)["param"]) == (400, "groups")
    assert running.trainer.running == {}


async def test_a_string_longer_than_the_largest_image_is_refused_while_it_comes(tmp_path):
    async with gateway(tmp_path, image_bytes=100_000) as running:
        finetune_id = await running.finetune()
        for junk in ("A" * 400_000, '\\"' * 200_000):
            body = f'{{"finetune_id":"{finetune_id}","groups":[{{"mode":"sft","x":"{junk}"}}]}}'
            answer = await post(running, STEP, body.encode())
            assert answer.status_code == 400
            assert "strings of at most" in error_of(answer)["message"]


@pytest.mark.parametrize("size", [1, 3, 7, 64, 1000])
def test_the_bound_sees_every_string_wherever_the_pieces_are_cut(size):
    def fed(text):
        bound = StringBound(50)
        for start in range(0, len(text), size):
            bound.feed(text[start : start + size])

    fed(b'{"a":"' + b"x" * 48 + b'","b":"' + b"y" * 48 + b'"}')
    for text in (b'{"a":"' + b"x" * 60, b'{"a":"' + b'\\"' * 60, b" " * 60, b'"' + b"\\\\" * 30 + b'"'):
        with pytest.raises(InvalidField):
            fed(text)


async def test_a_body_reads_the_same_to_several_readers(tmp_path):
    async def pieces():
        for index in range(100):
            yield bytes([index]) * 50_000

    body = await SpooledBody.receive(pieces(), tmp_path, 10**9)
    first, second = body.reader(), body.reader()
    head = first.read(10)
    whole = b"".join(iter(lambda: second.read(65536), b""))
    assert len(whole) == 5_000_000
    assert whole.startswith(head + first.read(10))
    body.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
async def test_a_256_mib_step_is_read_in_bounded_memory(tmp_path):
    """The gateway in a process of its own: its peak memory, over that of a small step, is a few groups'."""
    script = Path(__file__).parent / "memory_script.py"
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 200)
    seen = json.loads(out.splitlines()[-1])
    assert seen["groups"] == 19
    assert seen["body_bytes"] > 250 * 2**20
    assert seen["grown_bytes"] < 128 * 2**20, seen


def large_image(index: int, size: int) -> str:
    """A PNG of exactly so many bytes: what follows its end is ignored by every decoder."""
    data = base64.b64decode(image_url(("red", "blue")[index % 2], "PNG").partition(",")[2])
    return "data:image/png;base64," + base64.b64encode(data + bytes([index]) * (size - len(data))).decode()
