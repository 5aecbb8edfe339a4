"""The OpenAPI document: every example works, every path has its errors."""

import pytest

from services.gateway.examples import ANSWERS, FINETUNE, REQUESTS


def filled(value, finetune_id):
    if isinstance(value, dict):
        return {key: filled(inner, finetune_id) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, finetune_id) for inner in value]
    return finetune_id if value == FINETUNE else value


async def test_every_path_is_described_and_every_example_belongs_to_one(running):
    document = (await running.client.get("/openapi.json")).json()
    names = {f"{method.upper()} {path}" for path, found in document["paths"].items() for method in found}
    assert set(REQUESTS) | set(ANSWERS) <= names
    with_body = {name for name in names if name.startswith("POST") and not name.endswith("/save")}
    assert with_body - set(REQUESTS) == {"POST /v1/segment"}
    for path, found in document["paths"].items():
        for method, operation in found.items():
            assert operation.get("description"), (method, path)
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)
            assert "422" not in operation["responses"]
    references = str(document).split("'$ref': '#/components/schemas/")[1:]
    assert {one.partition("'")[0] for one in references} <= set(document["components"]["schemas"])
    assert "TrainStepBody" in document["components"]["schemas"]


@pytest.mark.parametrize(("name", "title"), [(name, title) for name, titles in REQUESTS.items() for title in titles])
async def test_an_example_works(running, name, title):
    running.inference.captions = True
    finetune_id = await running.finetune("red-squares")
    method, _, path = name.partition(" ")
    body = filled(REQUESTS[name][title], finetune_id)
    answer = await running.client.request(method, path.format(finetune_id=finetune_id), json=body)
    assert answer.status_code == 200, answer.text
    if name in ANSWERS and not body.get("stream"):
        missing = set(ANSWERS[name]) - set(answer.json())
        assert not missing, missing
