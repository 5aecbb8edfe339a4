"""Strangers stay out, bodies are bounded, keys are known."""

import asyncio
import base64

from moontune.auth.keys import KeyStore
from moontune.telemetry import names
from moontune.values.principal import Scope
from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_tuning import detect_body, error_of

CREATE = {"name": "x", "rank": 8}


async def test_without_keys_a_web_page_cannot_reach_us(running):
    path = "/v1/tuning/finetunes"
    for headers, expected in (
        ({}, 200),
        ({"x-moondream-auth": "anything"}, 200),
        ({"authorization": "Bearer anything"}, 200),
        ({"host": f"localhost:{running.port}"}, 200),
        ({"origin": f"http://localhost:{running.port}"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "127.0.0.1@evil.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ):
        answer = await running.client.post(path, json=CREATE, headers=headers)
        assert answer.status_code == expected, (headers, answer.text)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = await running.client.post(path, content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, error_of(answer)["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert (await running.client.post(path, content=b'{"name":"x","rank":8}')).status_code == 415
    save = f"{path}/{await running.finetune()}/checkpoints/save"
    assert (await running.client.post(save)).status_code == 200
    assert (await running.client.post(save, content=b"x=1")).status_code == 415


async def test_bodies_are_bounded_announced_or_not(tmp_path):
    async with gateway(tmp_path, body_bytes=2048, image_bytes=64) as running:
        big = {"name": "x" * 4096, "rank": 8}
        answer = await running.client.post("/v1/tuning/finetunes", json=big)
        assert (answer.status_code, error_of(answer)["code"]) == (413, "REQUEST_TOO_LARGE")

        async def chunks():
            for _ in range(8):
                yield b" " * 1024
                await asyncio.sleep(0)

        headers = {"content-type": "application/json"}
        answer = await running.client.post("/v1/tuning/finetunes", content=chunks(), headers=headers)
        assert answer.status_code == 413
        error_of(answer)
        heavy = "data:image/png;base64," + base64.b64encode(b"x" * 100).decode()
        answer = await running.client.post("/v1/detect", json={"object": "x", "image_url": heavy})
        assert (answer.status_code, error_of(answer)["code"]) == (413, "IMAGE_TOO_LARGE")


async def test_a_bomb_is_refused_by_its_header(running):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    answer = await running.client.post("/v1/detect", json={"object": "x", "image_url": url})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "IMAGE_TOO_LARGE")


async def test_with_keys_a_key_and_its_scope_are_needed(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    store = KeyStore(url)
    _, train = store.create("acme", scopes=[Scope.READ, Scope.TRAIN])
    _, infer = store.create("acme", scopes=[Scope.INFER])
    async with gateway(tmp_path, keys_database=url) as running:
        for headers in ({}, {"x-moondream-auth": "mt_wrong"}, {"x-moontune-internal": "1.x"}):
            answer = await running.client.post("/v1/tuning/finetunes", json=CREATE, headers=headers)
            assert (answer.status_code, error_of(answer)["type"]) == (401, "authentication_error")
        for headers in ({"x-moondream-auth": train}, {"authorization": f"Bearer {train}"}):
            answer = await running.client.post("/v1/tuning/finetunes", json=CREATE, headers=headers)
            assert answer.status_code == 200, answer.text
        answer = await running.client.post("/v1/tuning/finetunes", json=CREATE, headers={"x-moondream-auth": infer})
        assert (answer.status_code, error_of(answer)["code"]) == (403, "PERMISSION_DENIED")
        body = {"object": "x", "image_url": image_url()}
        answer = await running.client.post("/v1/detect", json=body, headers={"x-moondream-auth": infer})
        assert answer.status_code == 200
        assert (await running.client.get("/health")).status_code == 200
        headers = {"x-moondream-auth": train, "host": "gateway.example"}
        assert (await running.client.get("/v1/tuning/finetunes", headers=headers)).status_code == 200


async def test_another_organisations_record_does_not_verify(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    store = KeyStore(url)
    keys = [store.create(name)[1] for name in ("acme", "rival")]
    async with gateway(tmp_path, keys_database=url) as running:
        mine, other = ({"x-moondream-auth": key} for key in keys)
        made = await running.client.post("/v1/tuning/finetunes", json=CREATE, headers=mine)
        finetune_id = made.json()["finetune_id"]
        group = (await running.client.post("/v1/tuning/rollouts", json=detect_body(finetune_id), headers=mine)).json()
        body = {"finetune_id": finetune_id, "groups": [group | {"mode": "rl", "rewards": [0, 1, 0, 1]}]}
        for headers in (mine, other):
            answer = await running.client.post("/v1/tuning/train_step", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
        assert [step.groups[0].verified for step in running.trainer.steps] == [True, False]


async def test_requests_are_counted_by_route(running):
    await running.finetune()
    await running.client.get("/v1/tuning/finetunes/whatever")
    labels = {"method": "GET", "route": "/v1/tuning/finetunes/{finetune_id}", "status": "404"}
    assert running.metrics.value(names.HTTP_REQUESTS, **labels) == 1.0


async def test_the_openapi_document_is_served(running):
    document = (await running.client.get("/openapi.json")).json()
    assert "/v1/tuning/train_step" in document["paths"]
