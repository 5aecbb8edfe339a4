"""The OpenAPI document: every example works, every path has its errors."""

import pytest

from services.gateway.answers import ANSWER_FORMS
from services.gateway.examples import ANSWERS, FINETUNE, REQUESTS
from tests.services.gateway.conftest import image_url

GROUP = {
    "mode": "sft",
    "request": {"skill": "query", "question": "what?", "image_url": image_url()},
    "target": {"answer": "red"},
}


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
    # A file and what no base here can do have no form.
    assert names - set(ANSWER_FORMS) == {"GET /v1/downloads/{token}", "POST /v1/segment"}
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
    if not body.get("stream"):
        holds(name, answer.json())


@pytest.mark.parametrize("name", ANSWERS)
def test_an_example_answer_has_its_form(name):
    assert set(ANSWERS[name]) <= set(ANSWER_FORMS[name].model_fields)


def holds(name, answer):
    """The answer has its form, and no field that the document does not name."""
    form = ANSWER_FORMS[name].model_validate(answer, strict=False)
    assert form.model_dump(mode="json", exclude_unset=True) == answer


async def test_the_answers_of_calls_without_a_body_have_their_forms(running):
    finetune_id = await running.finetune("red-squares")
    step = {"finetune_id": finetune_id, "groups": [filled(GROUP, finetune_id)]}
    assert (await running.client.post("/v1/tuning/train_step", json=step)).status_code == 200
    under = "/v1/tuning/finetunes/{finetune_id}"
    calls = [
        f"POST {under}/checkpoints/save",
        f"GET {under}/checkpoints",
        f"GET {under}/checkpoints/{{step}}/download",
        f"GET {under}/train_logs",
        f"GET {under}/train_logs/{{file_id}}",
        f"GET {under}",
        "GET /v1/tuning/finetunes",
        "GET /v1/models",
        "GET /health",
        f"DELETE {under}/checkpoints/{{step}}",
        f"DELETE {under}",
    ]
    assert set(calls) == set(ANSWER_FORMS) - set(REQUESTS)
    for name in calls:
        method, _, path = name.partition(" ")
        where = path.format(finetune_id=finetune_id, step=1, file_id="000000001-rl=0-sft=1.json")
        answer = await running.client.request(method, where)
        assert answer.status_code == 200 or name == "GET /health", (name, answer.text)
        holds(name, answer.json())
