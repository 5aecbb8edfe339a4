"""Bad bodies over a real socket: each is a 4xx that names the field, the value given and what is allowed."""

import base64
import io
import json

import pytest
from PIL import Image

from tests.moontune.imaging.test_decode import png_header
from tests.services.gateway.conftest import image_url
from tests.services.gateway.test_tuning import error_of

DETECT = {"skill": "detect", "object": "x", "image_url": image_url()}
ROLLOUT = {"skill": "detect", "output": {"objects": []}}


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (32, 24)).save(file, form, **options)
    return file.getvalue()


async def post(running, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await running.client.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"groups": []}, "groups", "groups is []: List should have at least 1 item"),
        (
            {"groups": {"rollouts": [ROLLOUT | {"coords": [10**12, 3]}]}},
            "groups[0].rollouts[0].coords[0]",
            "1000000000000",
        ),
        (
            {"groups": {"rollouts": [ROLLOUT | {"answer_tokens": [-1]}]}},
            "groups[0].rollouts[0].answer_tokens[0]",
            "is -1",
        ),
        (
            {"groups": {"rollouts": [ROLLOUT | {"sizes": [[1, 2**40]]}]}},
            "groups[0].rollouts[0].sizes[0][1]",
            str(2**40),
        ),
        ({"groups": {"rewards": ["NaN"]}}, "groups[0].rewards[0]", "is 'NaN': Input should be a valid number"),
        ({"groups": {"rewards": [1, 2, 3]}}, "groups[0].rewards", "'3 rewards'; allowed: 1 rewards"),
        ({"expected_step": 2**62}, "expected_step", "less than or equal to"),
        ({"passes": 2**62}, "passes", "1 to 16"),
        ({"groups": {"mode": ["sft"]}}, "groups[0].mode", "is ['sft']"),
    ],
)
async def test_train_step_refusals(running, change, param, says):
    finetune_id = await running.finetune()
    group = {"mode": "rl", "request": DETECT, "rollouts": [ROLLOUT], "rewards": [1.0]}
    given = change.get("groups")
    groups = given if isinstance(given, list) else [group | (given or {})]
    answer = await post(running, "/v1/tuning/train_step", {"finetune_id": finetune_id, **change, "groups": groups})
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, param), error
    assert says in error["message"], error
    assert running.trainer.steps == []


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"", None, "the body is missing"),
        (b"{", None, "the body is not JSON: Expecting property name enclosed in double quotes at character 1"),
        (b"[]", None, "the body is []: "),
        (b"{}", "question", "question is missing"),
        (b"[" * 100_000, None, "nested deeper than 64 levels"),
        (b'{"question":"x","more":' + b"[" * 99 + b"]" * 99 + b"}", None, "nested deeper than 64 levels"),
        (b'{"question":"x","more":NaN}', None, "NaN is no JSON number"),
        (b'{"question":"x","more":1' + b"0" * 9999 + b"}", None, "Exceeds the limit"),
        (b'{"question":"\xff"}', None, "utf-8"),
        ({"question": 7}, "question", "question is 7: Input should be a valid string"),
        ({"question": "x" * 100 + "\ud800"}, None, "the body holds '\\ud800', half a surrogate pair"),
        ({"question": "a", "model": "\ud800"}, "input", "values that fit the contract"),
    ],
)
async def test_bodies_that_are_not_what_they_should_be(running, body, param, says):
    answer = await post(running, "/v1/query", body)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, param), error
    assert says in error["message"], error


async def test_half_a_surrogate_pair_is_refused_wherever_it_stands(running):
    finetune_id = await running.finetune()
    rollouts = {"finetune_id": finetune_id, "request": DETECT}
    for body in (rollouts | {"finetune_id": "\udfff"}, rollouts | {"request": DETECT | {"object": "\udfff"}}):
        answer = await post(running, "/v1/tuning/rollouts", body)
        assert (answer.status_code, error_of(answer)["code"]) == (400, "INVALID_FIELD")


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        (data_url(png_header(10_000, 10_000)), 413, "IMAGE_TOO_LARGE"),
        (data_url(b"\xff\xd8" + bytes(10 * 2**20), "image/jpeg"), 413, "IMAGE_TOO_LARGE"),
        (data_url(encoded("JPEG")[:300], "image/jpeg"), 400, "IMAGE_INVALID"),
        (data_url(encoded("GIF"), "image/gif"), 400, "INVALID_FIELD"),
        (data_url(encoded("GIF")), 400, "IMAGE_INVALID"),
        (data_url(encoded("BMP")), 400, "IMAGE_INVALID"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 400, "IMAGE_INVALID"),
        (data_url(b""), 400, "IMAGE_INVALID"),
        ("data:image/png;base64,\ud800", 400, "IMAGE_INVALID"),
        ("http://127.0.0.1/x.png", 400, "INVALID_FIELD"),
    ],
    ids=["100 MP", "10 MiB", "cut jpeg", "gif", "gif as png", "bmp", "svg", "empty", "not base64", "http"],
)
async def test_hostile_images(running, url, status, code):
    finetune_id = await running.finetune()
    groups = [{"request": DETECT | {"image_url": url}, "rollouts": [ROLLOUT], "rewards": [1.0]}]
    for path, body, param in (
        ("/v1/detect", {"object": "x", "image_url": url}, "image_url"),
        (
            "/v1/tuning/rollouts",
            {"finetune_id": finetune_id, "request": DETECT | {"image_url": url}},
            "request.image_url",
        ),
        ("/v1/tuning/train_step", {"finetune_id": finetune_id, "groups": groups}, "groups[0].request.image_url"),
    ):
        answer = await post(running, path, body)
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert running.rollout.orders == running.inference.orders == running.trainer.steps == []


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", "CMYK"),
        encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (32, 24), "red")]),
        encoded("MPO", save_all=True, append_images=[Image.new("RGB", (32, 24), "red")]),
    ],
    ids=["cmyk", "animated webp", "jpeg with further pictures"],
)
async def test_unusual_images_are_taken(running, data):
    answer = await post(running, "/v1/detect", {"object": "x", "image_url": data_url(data, "image/jpeg")})
    assert answer.status_code == 200, answer.text
