"""Inference, models and health over HTTP."""

import json

from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_tuning import BOX, error_of


async def saved_step(running) -> str:
    finetune_id = await running.finetune()
    await running.client.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save")
    return finetune_id


async def test_the_three_skills(running):
    image = {"image_url": image_url()}
    query = (await running.client.post("/v1/query", json={"question": "what?", "stream": False, **image})).json()
    assert query["answer"] == "a red car"
    assert "reasoning" not in query
    assert query["metrics"]["input_tokens"] == 735
    point = (await running.client.post("/v1/point", json={"object": "x", **image})).json()
    assert point["points"] == [{"x": 0.5, "y": 0.25}]
    detect = (await running.client.post("/v1/detect", json={"object": "x", **image})).json()
    assert detect["objects"] == [BOX]
    assert detect["moontune"]["adapter_digest"] == ""
    orders = running.inference.orders
    assert [order.model for order in orders] == ["moontune-tiny"] * 3
    assert orders[0].request.settings.temperature == 0.2
    assert orders[2].request.settings.temperature == 0.0
    assert (await running.client.post("/v1/query", json={"question": "2+2?"})).status_code == 200
    assert running.inference.orders[-1].request.image is None


async def test_models_by_alias_and_by_adapter(running):
    finetune_id = await saved_step(running)
    body = {"object": "x", "image_url": image_url()}
    checkpoint_id = running.trainer.saved[finetune_id, 0].id
    names = (
        {"model": f"moondream3-preview/{finetune_id}@0"},
        {"adapter": f"{finetune_id}/0"},
        {"adapter": f"{finetune_id}/{checkpoint_id}"},
    )
    for name in names:
        answer = (await running.client.post("/v1/detect", json=body | name)).json()
        assert (answer["moontune"]["finetune_id"], answer["moontune"]["step"]) == (finetune_id, 0)
        assert answer["moontune"]["adapter_digest"].startswith("sha256:")
    both = {"model": f"moondream3-preview/{finetune_id}@1", "adapter": f"{finetune_id}/0"}
    assert error_of(await running.client.post("/v1/detect", json=body | both))["param"] == "adapter"
    unknown = await running.client.post("/v1/detect", json=body | {"adapter": f"{finetune_id}/{'0' * 26}"})
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "CHECKPOINT_NOT_FOUND")
    unsaved = await running.client.post("/v1/detect", json=body | {"model": f"moondream3-preview/{finetune_id}@7"})
    assert (unsaved.status_code, error_of(unsaved)["code"]) == (404, "CHECKPOINT_NOT_FOUND")
    assert (await running.client.post("/v1/detect", json=body | {"model": "a/b@c"})).status_code == 400
    assert (await running.client.post("/v1/detect", json=body | {"model": "moondream3-preview"})).status_code == 200
    assert running.inference.orders[-1].model == "moontune-tiny"


async def test_a_streamed_query_is_what_the_client_parses(running):
    body = {"question": "what?", "image_url": image_url(), "stream": True}
    chunks, ended = [], False
    async with running.client.stream("POST", "/v1/query", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                data = json.loads(line[6:])
                chunks.append(data["chunk"])
                ended = data["completed"]
    assert ("".join(chunks), ended) == ("a red car", True)
    refused = await running.client.post("/v1/query", json=body | {"model": f"x/{'0' * 26}@1"})
    assert refused.status_code in (200, 404)


async def test_what_the_base_cannot_do_says_so(running):
    caption = await running.client.post("/v1/caption", json={"image_url": image_url(), "length": "short"})
    assert caption.status_code == 400
    assert "cannot caption" in error_of(caption)["message"]
    segment = await running.client.post("/v1/segment", json={"image_url": image_url(), "object": "x"})
    assert (segment.status_code, error_of(segment)["code"]) == (404, "NOT_IMPLEMENTED_YET")
    nothing = await running.client.get("/v1/nothing")
    assert (nothing.status_code, error_of(nothing)["code"]) == (404, "NOT_FOUND")
    assert (await running.client.get("/v1/query")).status_code == 405


async def test_bad_inference_input(running):
    cases = [
        ("/v1/detect", {"object": "x"}, "image_url"),
        ("/v1/detect", {"image_url": image_url()}, "object"),
        ("/v1/detect", {"object": " ", "image_url": image_url()}, "object"),
        ("/v1/query", {"question": ""}, "question"),
        ("/v1/point", {"object": "x", "image_url": image_url(), "spatial_refs": [[0.1, 0.2, 0.3]]}, "spatial_refs[0]"),
        ("/v1/point", {"object": "x", "image_url": image_url(), "settings": {"top_p": 0}}, "settings.top_p"),
    ]
    for path, body, param in cases:
        answer = await running.client.post(path, json=body)
        assert (answer.status_code, error_of(answer)["param"]) == (400, param), answer.text


async def test_models(running):
    finetune_id = await saved_step(running)
    listed = (await running.client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["moontune-tiny", f"moontune-tiny/{finetune_id}@0"]


async def test_health_names_what_is_missing(running, tmp_path):
    answer = await running.client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["services"] == dict.fromkeys(("rollout", "reward", "trainer", "inference", "jobs"), "ready")
    async with gateway(tmp_path, trainer_address="127.0.0.1:9", jobs_address="") as other:
        answer = await other.client.get("/health")
        assert answer.status_code == 503
        assert answer.json()["services"]["trainer"] == "unreachable"
        assert "jobs" not in answer.json()["services"]
        served = await other.client.post("/v1/detect", json={"object": "x", "image_url": image_url()})
        assert served.status_code == 200  # serving needs no trainer
        down = await other.client.get("/v1/tuning/finetunes/x")
        assert down.status_code in (503, 504)
        assert error_of(down)["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
