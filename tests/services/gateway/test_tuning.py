"""The tuning API's happy path and its refusals, over real sockets and channels."""

import copy
import io
import json
import time
import zipfile
from dataclasses import replace

import pytest

from moontune.values.finetune import LoraSettings, LoraTarget
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.rollout import Head
from moontune.values.training import RlGroup, SftGroup
from tests.fakes.loop import ADAPTER
from tests.services.gateway.conftest import image_url

BOX = {"x_min": 0.25, "y_min": 0.25, "x_max": 0.5, "y_max": 0.75}


def detect_body(finetune_id, count=4, **more):
    request = {"skill": "detect", "object": "digit", "image_url": image_url()}
    return {"finetune_id": finetune_id, "num_rollouts": count, "request": request, **more}


def error_of(answer):
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


async def test_create_is_idempotent_by_name_and_rank(running):
    first = await running.finetune("a.b-c_1", 16)
    assert await running.finetune("a.b-c_1", 16) == first
    other = await running.client.post("/v1/tuning/finetunes", json={"name": "a.b-c_1", "rank": 8})
    assert (other.status_code, error_of(other)["code"]) == (409, "FINETUNE_EXISTS")
    for name, rank, param in (("x y", 8, "name"), ("", 8, "name"), ("ok", 12, "rank"), ("ok", "8", "rank")):
        answer = await running.client.post("/v1/tuning/finetunes", json={"name": name, "rank": rank})
        assert (answer.status_code, error_of(answer)["param"]) == (400, param)


async def test_list_read_delete(running):
    ids = [await running.finetune(f"ft{index}") for index in range(5)]
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await running.client.get("/v1/tuning/finetunes", params=query)).json()
        seen += [one["finetune_id"] for one in page["finetunes"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == sorted(ids)
    one = (await running.client.get(f"/v1/tuning/finetunes/{ids[0]}")).json()["finetune"]
    assert {"finetune_id", "name", "rank", "created_at_ms", "updated_at_ms"} <= set(one)
    assert (one["name"], one["rank"]) == ("ft0", 8)
    assert (await running.client.delete(f"/v1/tuning/finetunes/{ids[0]}")).json() == {"ok": True}
    gone = await running.client.get(f"/v1/tuning/finetunes/{ids[0]}")
    assert (gone.status_code, error_of(gone)["code"]) == (404, "FINETUNE_NOT_FOUND")
    assert (await running.client.get("/v1/tuning/finetunes", params={"limit": 101})).status_code == 400


async def test_rollouts_have_moondreams_shape(running):
    finetune_id = await running.finetune()
    body = detect_body(finetune_id, ground_truth={"boxes": [BOX]})
    body["request"]["settings"] = {"temperature": 0.7, "max_objects": 3}
    answer = (await running.client.post("/v1/tuning/rollouts", json=body)).json()
    assert answer["request"] == body["request"]
    assert answer["rewards"] == [0.0, 0.125, 0.25, 0.375]
    assert len(answer["rollouts"]) == 4
    rollout = answer["rollouts"][1]
    assert rollout.pop("moontune")["seed"] == "101"
    assert rollout == {
        "skill": "detect",
        "finish_reason": "stop",
        "output": {"objects": [BOX]},
        "answer_tokens": [5, 5, 6],
        "thinking_tokens": [],
        "has_answer_separator": False,
        "coords": [101, 102],
        "sizes": [[103, 104]],
    }
    (order,) = running.rollout.orders
    assert order.model == f"moontune-tiny/{finetune_id}@0"
    assert order.ground_truth == GroundTruth(boxes=(Box(0.25, 0.25, 0.5, 0.75),))
    settings = order.request.settings
    assert (settings.temperature, settings.max_objects, settings.max_tokens) == (0.7, 3, 256)


async def test_other_skills_and_a_grade_that_failed(running):
    finetune_id = await running.finetune()
    request = {"skill": "query", "question": "what?", "image_url": image_url(), "reasoning": True}
    body = {"finetune_id": finetune_id, "num_rollouts": 1, "request": request}
    answer = (await running.client.post("/v1/tuning/rollouts", json=body)).json()
    (rollout,) = answer["rollouts"]
    assert answer["rewards"] is None
    assert (rollout["thinking_tokens"], rollout["has_answer_separator"]) == ([50], True)
    assert rollout["answer_tokens"] == [107, 9]
    assert rollout["output"] == {"answer": "answer 100", "reasoning": {"text": "hm", "grounding": []}}
    running.rollout.failures = (1,)
    request = {"skill": "point", "object": "x", "image_url": image_url(kind="PNG"), "spatial_refs": [[0.5, 0.5]]}
    body = {"finetune_id": finetune_id, "num_rollouts": 2, "request": request}
    body["ground_truth"] = {"points": [{"x": 0.5, "y": 0.5}]}
    answer = (await running.client.post("/v1/tuning/rollouts", json=body)).json()
    assert answer["rewards"] == [0.0, None]
    assert answer["rollouts"][0]["coords"] == [100, 300]
    assert answer["rollouts"][0]["answer_tokens"] == [5, 5]


async def train(running, finetune_id, groups, **more):
    body = {"finetune_id": finetune_id, "groups": groups, "lr": 1e-4, **more}
    return await running.client.post("/v1/tuning/train_step", json=body)


async def rl_group(running, finetune_id, skill="detect", **more):
    request = {"skill": skill, "image_url": image_url(), **more}
    request |= {"question": "what?"} if skill == "query" else {"object": "digit"}
    body = {"finetune_id": finetune_id, "num_rollouts": 2, "request": request}
    answer = (await running.client.post("/v1/tuning/rollouts", json=body)).json()
    return {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"], "rewards": [0.0, 1.0]}


@pytest.mark.parametrize("skill", ["detect", "point", "query"])
async def test_the_record_brings_log_probabilities_back_exactly(running, skill):
    finetune_id = await running.finetune()
    extra = {"reasoning": True} if skill == "query" else {}
    group = await rl_group(running, finetune_id, skill, **extra)
    answer = await train(running, finetune_id, [json.loads(json.dumps(group))])
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert (result["step"], result["applied"], result["reward_mean"], result["grad_norm"]) == (1, True, 0.5, 1.5)
    assert {"kl", "router_kl", "sft_loss", "reward_std"} <= set(result)
    (step,) = running.trainer.steps
    (sent,) = step.groups
    assert isinstance(sent, RlGroup)
    assert sent.verified
    assert sent.rewards == (0.0, 1.0)
    assert step.settings.learning_rate == 1e-4
    assert sent.rollouts[0].policy.step == 0
    assert sent.rollouts[0].policy.finetune_id == finetune_id
    assert all(decision.logprob < 0 for decision in sent.rollouts[0].decisions)
    assert sent.rollouts[1].seed == 101


async def test_altered_and_forged_rollouts_count_as_unverified(running):
    finetune_id = await running.finetune()
    group = await rl_group(running, finetune_id)

    def changed(change):
        other = copy.deepcopy(group)
        change(other)
        return other

    variants = [
        changed(lambda g: g["rollouts"][0].pop("moontune")),
        changed(lambda g: g["rollouts"][0]["coords"].__setitem__(0, 7)),
        changed(lambda g: g["rollouts"][0]["moontune"].__setitem__("seed", "1")),
        changed(lambda g: g["rollouts"][0]["moontune"].__setitem__("mac", "x")),
        changed(lambda g: g["rollouts"][0].__setitem__("moontune", 5)),
        changed(lambda g: g["request"].__setitem__("object", "other")),
    ]
    answer = await train(running, finetune_id, [group, *variants])
    assert answer.status_code == 200, answer.text
    (step,) = running.trainer.steps
    assert [sent.verified for sent in step.groups] == [True] + [False] * len(variants)
    forged = step.groups[2].rollouts[0]
    assert [(one.head, one.choice) for one in forged.decisions] == [
        (Head.GO, 1),
        (Head.X, 7),
        (Head.Y, 101),
        (Head.WIDTH, 102),
        (Head.HEIGHT, 103),
        (Head.GO, 0),
    ]
    assert all(one.logprob == 0.0 for one in forged.decisions)


async def test_both_request_shapes_and_sft_groups(running):
    finetune_id = await running.finetune()
    group = await rl_group(running, finetune_id)
    wrapped = group | {"request": {"finetune_id": finetune_id, "num_rollouts": 2, "request": group["request"]}}
    detect = {"mode": "sft", "request": group["request"], "target": {"boxes": [BOX]}}
    asked = {"skill": "query", "question": "what?", "image_url": image_url()}
    query = {"mode": "sft", "request": asked, "target": {"answer": "a cat"}}
    answer = await train(running, finetune_id, [wrapped, detect, query], kl_weight=0.1, loss="gspo")
    assert answer.status_code == 200, answer.text
    (step,) = running.trainer.steps
    assert step.groups[0].verified
    assert isinstance(step.groups[1], SftGroup)
    assert step.groups[1].target == GroundTruth(boxes=(Box(0.25, 0.25, 0.5, 0.75),))
    assert step.groups[2].target == QueryOutput("a cat")
    assert (step.settings.kl_weight, step.settings.loss) == (0.1, "gspo")


async def test_refusals_name_the_field_and_are_never_retried_by_the_client(running):
    finetune_id = await running.finetune()
    group = await rl_group(running, finetune_id)
    good = {"skill": "detect", "object": "digit", "image_url": image_url()}
    sft = {"mode": "sft", "request": good, "target": {"boxes": [BOX]}}
    short, bad_box = BOX | {"x_max": 0.1}, BOX | {"y_max": 1.5}
    cases = [
        ({"groups": []}, "groups"),
        ({"groups": [group | {"rewards": [1.0]}]}, "groups[0].rewards"),
        ({"groups": [group | {"rewards": [1.0, "x"]}]}, "groups[0].rewards[1]"),
        ({"groups": [group | {"rollouts": []}]}, "groups[0].rollouts"),
        ({"groups": [sft | {"target": {"boxes": []}}]}, "groups[0].target.boxes"),
        ({"groups": [sft | {"target": {"answer": "x"}}]}, "groups[0].target"),
        ({"groups": [sft | {"target": {"boxes": [short]}}]}, "groups[0].target.boxes[0].x_min"),
        ({"groups": [sft | {"target": {"boxes": [bad_box]}}]}, "groups[0].target.boxes[0].y_max"),
        ({"groups": [sft], "lr": 2.0}, "lr"),
        ({"groups": [sft], "kl_coef": 0.1}, "kl_coef"),
        ({"groups": [sft], "loss": "magic"}, "loss"),
        ({"groups": [sft], "passes": 99}, "passes"),
    ]
    for more, param in cases:
        answer = await running.client.post("/v1/tuning/train_step", json={"finetune_id": finetune_id, **more})
        assert answer.status_code == 400, (param, answer.text)
        assert error_of(answer)["param"] == param, answer.text
    assert running.trainer.steps == []


async def test_rollout_refusals(running):
    finetune_id = await running.finetune()
    good = detect_body(finetune_id)

    def request(**changes):
        changed = good["request"] | changes
        return {"request": {name: value for name, value in changed.items() if value is not None}}

    cases = [
        ({"num_rollouts": 0}, "num_rollouts"),
        ({"num_rollouts": 17}, "num_rollouts"),
        (request(skill="caption"), "request.skill"),
        (request(object=None), "request.object"),
        (request(image_url=None), "request.image_url"),
        (request(image_url="https://example.com/a.jpg"), "request.image_url"),
        (request(image_url="data:image/gif;base64,AAAA"), "request.image_url"),
        (request(image_url="data:image/jpeg;base64,!!!!"), "request.image_url"),
        (request(image_url="data:image/jpeg;base64,AAAA"), "request.image_url"),
        (request(settings={"temprature": 1}), "request.settings.temprature"),
        (request(settings={"temperature": 9.0}), "request.settings.temperature"),
        ({"ground_truth": {"points": [{"x": 0.5, "y": 0.5}]}}, "ground_truth"),
        ({"ground_truth": {"boxes": [BOX | {"x_min": -1.0}]}}, "ground_truth.boxes[0].x_min"),
        ({"colour": 1}, "colour"),
    ]
    for change, param in cases:
        answer = await running.client.post("/v1/tuning/rollouts", json=good | change)
        assert answer.status_code == 400, (param, answer.text)
        assert error_of(answer)["param"] == param, answer.text
    unknown = await running.client.post("/v1/tuning/rollouts", json=good | {"finetune_id": "0" * 26})
    assert unknown.status_code == 404
    assert running.rollout.orders == []
    for text in ("{", "[" * 100_000, '{"finetune_id": NaN}', '"x"'):
        headers = {"content-type": "application/json"}
        answer = await running.client.post("/v1/tuning/rollouts", content=text, headers=headers)
        assert answer.status_code == 400, text[:10]
        error_of(answer)


async def test_metrics(running):
    finetune_id = await running.finetune()
    path = f"/v1/tuning/finetunes/{finetune_id}/metrics"
    answer = await running.client.post(path, json={"step": 3, "metrics": {"eval/miou": 0.5, "n": 2}})
    assert answer.json() == {"ok": True, "step": 3, "logged_count": 2}
    assert (finetune_id, 3, "eval/miou", 0.5) in running.trainer.metrics
    for bad in ({}, {"sys/x": 1.0}, {"a b": 1.0}, {f"m{index}": 1.0 for index in range(101)}):
        assert (await running.client.post(path, json={"step": 3, "metrics": bad})).status_code == 400


async def test_checkpoints(running):
    finetune_id = await running.finetune()
    path = f"/v1/tuning/finetunes/{finetune_id}/checkpoints"
    group = await rl_group(running, finetune_id)
    for _ in range(3):
        assert (await train(running, finetune_id, [group])).json()["replayed"] is False
        saved = await running.client.post(f"{path}/save")  # no body, no Content-Type, as the official client does
        assert saved.json()["ok"] is True
    again = (await running.client.post(f"{path}/save")).json()["checkpoint"]
    assert again == saved.json()["checkpoint"]
    assert set(again) >= {"checkpoint_id", "finetune_id", "step", "expires_at_ms", "created_at_ms", "updated_at_ms"}
    page = (await running.client.get(path, params={"limit": 2})).json()
    assert [one["step"] for one in page["checkpoints"]] == [1, 2]
    rest = (await running.client.get(path, params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert ([one["step"] for one in rest["checkpoints"]], rest["has_more"]) == ([3], False)
    assert (await running.client.delete(f"{path}/2")).json() == {"ok": True}
    assert (await running.client.delete(f"{path}/2")).json() == {"ok": True}
    assert (await running.client.delete(f"{path}/99")).status_code == 404
    assert (await running.client.post(f"/v1/tuning/finetunes/{'0' * 26}/checkpoints/save")).status_code == 404


async def test_a_bad_cursor_is_refused(running):
    finetune_id = await running.finetune()
    path = f"/v1/tuning/finetunes/{finetune_id}"
    for where in ("/v1/tuning/finetunes", f"{path}/checkpoints", f"{path}/train_logs"):
        for cursor in ("nonsense", "", "-1", "1;2", "²", "9" * 40):
            answer = await running.client.get(where, params={"cursor": cursor})
            assert (answer.status_code, error_of(answer)["param"]) == (400, "cursor"), (where, cursor)


async def test_a_link_gives_the_file_without_a_key_until_its_time_is_over(running, monkeypatch):
    finetune_id = await running.finetune()
    path = f"/v1/tuning/finetunes/{finetune_id}/checkpoints"
    assert (await running.client.get(f"{path}/0/download")).status_code == 404
    await running.client.post(f"{path}/save")
    link = (await running.client.get(f"{path}/0/download")).json()
    assert (link["expires_in"], link["format"]) == (3600, "peft")
    file = await running.client.get(link["url"])
    assert (file.status_code, file.headers["x-moontune-format"]) == (200, "peft")
    with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == ADAPTER
    head, _, mac = link["url"].rpartition("/")[2].partition(".")
    for forged in (f"{head}.{mac[:-2]}AA", f"A{head}.{mac}", head, "x.y", "%00", "é"):
        answer = await running.client.get(f"/v1/downloads/{forged}")
        assert answer.status_code == 403, forged
    now = time.time()
    monkeypatch.setattr("services.gateway.links.time.time", lambda: now + 3601)
    late = await running.client.get(link["url"])
    assert (late.status_code, error_of(late)["code"]) == (410, "LINK_EXPIRED")


async def test_a_finetune_of_mlp_layers_alone_is_downloaded_in_photons_form(running):
    finetune_id = await running.finetune()
    made = running.trainer.finetunes[finetune_id]
    running.trainer.finetunes[finetune_id] = replace(made, lora=LoraSettings(targets=(LoraTarget.TEXT_MLP,)))
    path = f"/v1/tuning/finetunes/{finetune_id}/checkpoints"
    await running.client.post(f"{path}/save")
    link = (await running.client.get(f"{path}/0/download")).json()
    assert link["format"] == "photon"
    file = await running.client.get(link["url"])
    assert (file.content, file.headers["x-moontune-format"]) == (b"photon's bytes", "photon")


async def test_train_logs(running):
    finetune_id = await running.finetune()
    group = await rl_group(running, finetune_id)
    sft = {"mode": "sft", "request": group["request"], "target": {"boxes": [BOX]}}
    for index in range(5):
        await train(running, finetune_id, [group, *[sft] * index])
    path = f"/v1/tuning/finetunes/{finetune_id}/train_logs"
    await running.client.post(f"/v1/tuning/finetunes/{finetune_id}/metrics", json={"step": 9, "metrics": {"x": 1}})
    seen, cursor = [], None
    for _ in range(9):
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await running.client.get(path, params=query)).json()
        seen += page["steps"]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert [one["id"] for one in seen] == [f"{step:09d}-rl=1-sft={step - 1}.json" for step in (5, 4, 3, 2, 1)]
    assert seen[0]["metadata"] == {"rl": 1, "sft": 4}
    log = (await running.client.get(f"{path}/{seen[1]['id']}")).json()
    assert (log["step"], log["metrics"]["reward_mean"]) == (4, 0.5)
    for bad, status in (("nonsense", 400), ("000000004-rl=1-sft=7.json", 404), ("000000009-rl=1-sft=0.json", 404)):
        assert (await running.client.get(f"{path}/{bad}")).status_code == status, bad
