"""Hostile requests: each is refused with a 4xx, and the gateway goes on."""

import asyncio
import base64
import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings

from tests.moontune.imaging.test_decode import png_header
from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_bad_input import DETECT, ROLLOUT, data_url, encoded, post
from tests.services.gateway.test_tuning import BOX, error_of

RETRIED = {408, 425, 429, 500, 502, 503, 504, *range(520, 525)}
FINETUNES = "/v1/tuning/finetunes"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.html", "<script>alert(1)</script>")
    return file.getvalue()


@pytest.mark.parametrize("tail", [b"<script>alert(1)</script>", zipped(), b"%PDF-1.7\n", b"\x7fELF" + bytes(100)])
async def test_a_polyglot_is_an_image_and_nothing_else(running, tail):
    """What follows an image's end is never looked at; what only ends like an image is none."""
    for kind in ("JPEG", "PNG", "WEBP"):
        answer = await post(running, "/v1/detect", {"object": "x", "image_url": data_url(encoded(kind) + tail)})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        hidden = await post(running, "/v1/detect", {"object": "x", "image_url": data_url(tail + encoded(kind))})
        assert (hidden.status_code, error_of(hidden)["code"]) == (400, "IMAGE_INVALID")


@pytest.mark.parametrize(
    "payload", ["!", "A", "AAA", "AA=A", "=", "A" * 1_000_001, "\u0000", "%41%41", "QUJD\nQUJD", "é", "AAAA====", " "]
)
async def test_base64_that_is_none(running, payload):
    url = "data:image/png;base64," + payload
    answer = await post(running, "/v1/detect", {"object": "x", "image_url": url})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "IMAGE_INVALID")


async def test_bombs(running):
    """Small files that would be large pictures: refused by their headers, in no time."""
    webp = bytearray(encoded("WEBP"))
    webp[26:30] = struct.pack("<HH", 16_383, 16_383)  # the size in a lossy frame's header
    for data in (png_header(30_000, 30_000), bytes(webp)):
        answer = await post(running, "/v1/detect", {"object": "x", "image_url": data_url(data)})
        assert (answer.status_code, error_of(answer)["code"]) == (413, "IMAGE_TOO_LARGE")
    packed = zlib.compress(b'{"question":"' + b"x" * 50_000_000 + b'"}')
    headers = {"content-type": "application/json", "content-encoding": "deflate"}
    answer = await running.client.post("/v1/query", content=packed, headers=headers)
    assert answer.status_code == 400  # bodies are never unpacked


async def test_ten_thousand_boxes(running):
    finetune_id = await running.finetune()
    boxes = [BOX] * 10_000
    rollouts = {"finetune_id": finetune_id, "request": DETECT, "ground_truth": {"boxes": boxes}}
    many = ROLLOUT | {"output": {"objects": boxes}}
    for path, body, param in (
        ("/v1/tuning/rollouts", rollouts, "ground_truth.boxes"),
        ("/v1/tuning/train_step", {"mode": "sft", "target": {"boxes": boxes}}, "groups[0].target.boxes"),
        ("/v1/tuning/train_step", {"rollouts": [many], "rewards": [1.0]}, "groups[0].rollouts[0].output.objects"),
    ):
        if path.endswith("train_step"):
            body = {"finetune_id": finetune_id, "groups": [{"request": DETECT} | body]}
        answer = await post(running, path, body)
        error = error_of(answer)
        assert (answer.status_code, error["param"]) == (400, param), error
        assert len(answer.content) < 4096


async def test_deep_nesting_wherever_it_stands(running):
    finetune_id = await running.finetune()
    for levels in (70, 500, 50_000):
        deep = "[" * levels + "]" * levels
        for path, text in (
            ("/v1/query", f'{{"question":"x","more":{deep}}}'),
            ("/v1/tuning/rollouts", f'{{"finetune_id":"{finetune_id}","request":{{"skill":"query","more":{deep}}}}}'),
            ("/v1/tuning/train_step", f'{{"finetune_id":"{finetune_id}","groups":[{{"request":{deep}}}]}}'),
            (FINETUNES, deep),
        ):
            answer = await post(running, path, text.encode())
            assert answer.status_code == 400, (path, levels)
            error_of(answer)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../..",
        "..%2f..",
        "%2e%2e",
        "x/../../y",
        "C:\\x",
        "a\x00b",
        "\u202e",
        "x" * 200,
        ".../...",
        "~",
        "a;b",
        "",
    ],
)
async def test_path_tricks_in_names_and_ids(running, name):
    made = await running.client.post(FINETUNES, json={"name": name, "rank": 8})
    if name == "..":
        assert made.status_code == 200  # a name is a name: nothing is ever called so on a disk
    else:
        assert made.status_code == 400, made.text
    for path in (
        f"{FINETUNES}/{name}",
        f"{FINETUNES}/{name}/checkpoints",
        f"{FINETUNES}/{name}/train_logs/{name}",
        f"/v1/downloads/{name}",
    ):
        try:
            answer = await running.client.get(path)
        except Exception as error:  # a URL that the client itself does not send
            assert "Invalid" in str(error)
            continue
        assert answer.status_code not in RETRIED, (path, answer.text)
        assert answer.status_code in (200, 400, 403, 404, 405) or "passwd" not in answer.text


async def test_strange_methods_and_targets(running):
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await reader.readline()).split()[1] in (b"404", b"405")
    writer.close()
    for raw in (b"GET http://evil/ HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(raw)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer == b"" or answer.split()[1].startswith(b"4"), answer
        writer.close()
    head = b"POST /v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
    smuggled = head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(smuggled)
    assert (await reader.readline()).split()[1].startswith(b"4")
    writer.close()
    assert (await running.client.get("/health")).status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_schemathesis_finds_no_fault_of_ours(tmp_path):
    import schemathesis

    async with gateway(tmp_path) as running:
        await running.finetune("red-squares")
        document = (await running.client.get("/openapi.json")).json()
        schema = schemathesis.openapi.from_dict(document)
        url = f"http://127.0.0.1:{running.port}"
        faults: list[str] = []

        def run() -> int:
            seen = 0
            for found in schema.get_all_operations():
                operation = found.ok()

                @settings(
                    max_examples=20, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                @given(case=operation.as_strategy())
                def check(case):
                    answer = case.call(base_url=url)
                    if answer.status_code >= 500 or answer.status_code in RETRIED:
                        faults.append(f"{case.method} {case.formatted_path}: {answer.status_code} {answer.text[:300]}")

                check()
                seen += 1
            return seen

        assert await asyncio.to_thread(run) > 15
        assert faults == []
        assert base64.b64decode(image_url().partition(",")[2])
