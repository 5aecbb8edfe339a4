"""Two organisations on one machine: whatever one calls with the other's ids is answered as if they did not exist.

Every rpc of the contract and every HTTP path is in a table here; one that is forgotten fails the test of the tables.
"""

import base64
import importlib
import pkgutil
import re

import grpc
import pytest
import pytest_asyncio
from google.protobuf import json_format, message_factory

import moontune.api
from moontune.values.finetune import LoraSettings, NewFinetune
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.reward_definition import JudgeReward, RewardDefinition
from moontune.values.skill import Skill
from moontune.values.training import SftGroup, TrainStep
from services.gateway.examples import FINETUNE, IMAGE_URL, REQUESTS
from tests.services.jobs.toy import config
from tests.services.model_stack import detect
from tests.services.tenancy_stack import NOBODY, TenancyStack, tenancy_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = {"ft": "01J" + "Z" * 23, "cp": "01J" + "Y" * 23, "job": "01J" + "X" * 23, "dataset": "01J" + "W" * 23}
UNKNOWN["reward"] = "nobody-reward"  # as long as the owner's: lengths stand in what comes back
IMAGE = {"data": IMAGE_URL.partition(",")[2]}
INPUT = {"model": "tiny-fake/{ft}@1", "images": [IMAGE]}
REQUEST = {"images": [IMAGE], "detect": {"object": "x"}}
ORDER = {"model": "tiny-fake/{ft}@1", "request": REQUEST, "rolloutCount": 1}
FT, JOB, DATASET = {"finetuneId": "{ft}"}, {"jobId": "{job}"}, {"datasetId": "{dataset}"}
ID = {"requestId": "stranger-{serial}"}
REFS = [{"finetuneId": "{ft}", "step": 1}, {"finetuneId": "{ft}", "checkpointId": "{cp}"}]
BOXES = {"boxes": {"boxes": [{"xMin": 0.1, "yMin": 0.1, "xMax": 0.5, "yMax": 0.5}]}}
ROLLOUT = {
    "output": {"detect": {}},
    "decisions": [{"head": "HEAD_GO", "choice": 0, "logprob": -0.5}],
    "finishReason": "FINISH_REASON_STOP",
    "policy": {"base": "tiny-fake", "baseDigest": "sha256:" + "0" * 64},
    "temperature": 1.0,
}
SAMPLE = {"request": REQUEST, "output": {"detect": {}}, "groundTruth": BOXES}
SPEC = {"components": [{"name": "{reward}"}]}
GROUP = {"sft": {"request": REQUEST, "groundTruth": BOXES}}

# What a stranger sends: one message, or a list of alternatives, or for a stream the messages of a tuple.
NAMED: dict[str, object] = {
    "RolloutService/GenerateRollouts": [
        {"order": ORDER},
        {"order": ORDER | {"model": "tiny-fake", "reward": SPEC, "groundTruth": BOXES}},
    ],
    "RolloutService/StreamRollouts": ({"tag": "a", "order": ORDER},),
    "RewardService/Score": {"reward": SPEC, "samples": [SAMPLE]},
    "RewardService/ScoreStream": ({"tag": "a", "reward": SPEC, "samples": [SAMPLE]},),
    "RewardService/ValidateReward": {
        "reward": SPEC,
        "groups": [{"request": REQUEST, "outputs": [{"detect": {}}], "groundTruth": BOXES}],
    },
    "InferenceService/Query": {"input": INPUT, "task": {"question": "x"}},
    "InferenceService/Point": {"input": INPUT, "task": {"object": "x"}},
    "InferenceService/Detect": {"input": INPUT, "task": {"object": "x"}},
    "InferenceService/Caption": {"input": INPUT},
    "InferenceService/StreamQuery": {"input": INPUT, "task": {"question": "x"}},
    "InferenceService/StreamPoint": {"input": INPUT, "task": {"object": "x"}},
    "InferenceService/StreamDetect": {"input": INPUT, "task": {"object": "x"}},
    "InferenceService/StreamCaption": {"input": INPUT},
    "InferenceService/LoadAdapter": ID | {"model": "tiny-fake/{ft}@1"},
    "InferenceService/UnloadAdapter": ID | {"model": "tiny-fake/{ft}@1"},
    "InferenceService/GetAdapterStatus": {"model": "tiny-fake/{ft}@1"},
    "TrainerService/GetFinetune": FT,
    "TrainerService/DeleteFinetune": ID | FT,
    "TrainerService/TrainStep": ({"header": ID | FT | {"groupCount": 1}}, {"group": GROUP}),
    "TrainerService/ComputeLogprobs": FT | {"batches": [{"request": REQUEST, "rollouts": [ROLLOUT]}]},
    "TrainerService/LogMetrics": ID | FT | {"points": [{"step": 1, "name": "x", "value": 1.0}]},
    "TrainerService/ListMetrics": FT,
    "TrainerService/SaveCheckpoint": ID | FT,
    "TrainerService/ListCheckpoints": FT,
    "TrainerService/GetCheckpoint": [{"ref": ref} for ref in REFS],
    "TrainerService/DeleteCheckpoint": [ID | {"ref": ref} for ref in REFS],
    "TrainerService/RestoreCheckpoint": [ID | {"ref": ref} for ref in REFS],
    "TrainerService/DownloadAdapter": [FT, FT | {"step": 1}],
    "TrainerService/ExportCheckpoint": [{"ref": ref, "kind": "EXPORT_KIND_PEFT"} for ref in REFS],
    "TrainerService/WatchFinetune": FT | {"afterStep": 0},
    "JobService/GetJob": JOB,
    "JobService/CancelJob": ID | JOB,
    "JobService/PauseJob": ID | JOB,
    "JobService/ResumeJob": ID | JOB,
    "JobService/WatchJob": JOB,
    "DatasetService/GetDataset": DATASET,
    "DatasetService/DeleteDataset": ID | DATASET,
}

# These name nothing of anybody's: what they answer a stranger must not hold anything of the owner's.
UNNAMED: dict[str, object] = {
    "RolloutService/GetEngineStatus": {},
    "RewardService/ListRewards": {},
    "RewardService/RegisterReward": ID
    | {
        "definition": {
            "name": "strangers-own",
            "skills": ["SKILL_DETECT"],
            "judge": {"endpoint": f"http://{NOBODY}/v1", "model": "m", "rubric": "Rate this answer"},
        }
    },
    "RewardService/GetSandboxStatus": {},
    "RewardPluginService/DescribeReward": {},
    "RewardPluginService/ScoreSamples": {},
    "InferenceService/ListModels": {},
    "TrainerService/CreateFinetune": ID | {"name": "strangers-own", "lora": {"rank": 4}},
    "TrainerService/ListFinetunes": {},
    "TrainerService/ImportAdapter": ({},),
    "JobService/CreateJob": {},
    "JobService/ListJobs": {},
    "JobService/ListPresets": {},
    "DatasetService/UploadDataset": ({},),
    "DatasetService/ListDatasets": {},
}

SERVED_BY = {"DatasetService": "jobs", "JobService": "jobs", "RewardPluginService": "reward"}


def methods() -> dict[str, object]:
    """Every rpc's descriptor by `<Service>/<Rpc>`."""
    found: dict[str, object] = {}
    for module in pkgutil.walk_packages(moontune.api.__path__, "moontune.api."):
        if module.name.endswith("_service_pb2"):
            for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                found |= {f"{service.name}/{method.name}": method for method in service.methods}
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    async with tenancy_stack(tmp_path_factory.mktemp("tenancy")) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def owned(stack: TenancyStack, tmp_path_factory) -> dict[str, str]:
    """What the owner has: a finetune with a saved step that inference holds, a job, a reward."""
    trainer = stack.trainer
    made = await trainer.create_finetune(NewFinetune("", "owners-secret", lora=LoraSettings(rank=4)))
    group = SftGroup(detect(), GroundTruth(boxes=(Box(0.1, 0.1, 0.5, 0.5),)))
    assert (await trainer.train_step(TrainStep(made.id, "owners", (group,)))).applied
    saved = await trainer.save_checkpoint(made.id)
    await stack.inference.load_adapter(f"tiny-fake/{made.id}@1")
    job = await stack.jobs.create_job(config(tmp_path_factory.mktemp("data")))
    # A judge that never answers: it is there to be named, and needs no sandbox, which not every machine has.
    judge = JudgeReward("m", "Rate {answer}", f"http://{NOBODY}/v1", timeout_s=1.0)
    await stack.reward.register(RewardDefinition("owners-reward", (Skill.DETECT,), judge), request_id="owners")
    return {
        "ft": made.id,
        "cp": saved.id,
        "job": job.id,
        "dataset": "01J" + "V" * 23,
        "digest": saved.adapter_digest,
        "reward": "owners-reward",
    }


def filled(value, ids, serial):
    if isinstance(value, dict):
        return {key: filled(inner, ids, serial) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(inner, ids, serial) for inner in value]
    return value.format(**ids, serial=serial) if isinstance(value, str) and "{" in value else value


async def call(stack: TenancyStack, rpc: str, payload, ids, who="stranger", serial=0) -> tuple[str, str, bytes]:
    """Code, message with the ids struck out, and the bytes of what came back."""
    method = methods()[rpc]
    request_class = message_factory.GetMessageClass(method.input_type)
    response_class = message_factory.GetMessageClass(method.output_type)
    channel = stack.channels[SERVED_BY.get(rpc.partition("/")[0]) or rpc.partition("Service")[0].lower()]
    sent, came = "stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary"
    open_call = getattr(channel, f"{sent}_{came}")(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request_class.SerializeToString,
        response_deserializer=response_class.FromString,
    )
    messages = payload if isinstance(payload, tuple) else (payload,)
    requests = [json_format.ParseDict(filled(one, ids, serial), request_class()) for one in messages]
    metadata = (("x-moontune-auth", stack.keys[who]),)
    started = open_call(iter(requests) if method.client_streaming else requests[0], timeout=30, metadata=metadata)
    got = b""
    try:
        if method.server_streaming:
            async for response in started:
                got += response.SerializeToString()
        else:
            got = (await started).SerializeToString()
    except grpc.RpcError as error:
        return error.code().name, struck(error.details() or "", ids), got
    return "OK", "", got


def struck(text: str, ids) -> str:
    for name, value in ids.items():
        text = text.replace(value, f"<{name}>")
    return re.sub(r"[0-9a-f]{32}", "<log id>", text)


def owners_traces(owned) -> list[bytes]:
    return [value.encode() for name, value in owned.items() if name != "dataset"] + [b"owners-secret", b"owner\x12"]


async def test_no_rpc_is_forgotten():
    assert set(NAMED) | set(UNNAMED) == set(methods())
    assert not set(NAMED) & set(UNNAMED)


@pytest.mark.parametrize("rpc", NAMED)
async def test_anothers_things_are_as_if_they_were_not(stack, owned, rpc):
    for serial, payload in enumerate(NAMED[rpc] if isinstance(NAMED[rpc], list) else [NAMED[rpc]]):
        code, message, got = await call(stack, rpc, payload, owned, serial=f"{rpc[-9:]}-{serial}")
        unknown = await call(stack, rpc, payload, UNKNOWN, serial=f"{rpc[-9:]}-{serial}-u")
        if rpc in ("RolloutService/StreamRollouts", "RewardService/ScoreStream"):
            assert code == "OK"  # the error is in the item
            assert b"NOT_FOUND" in got
            assert struck(got.decode("latin-1"), owned) == struck(unknown[2].decode("latin-1"), UNKNOWN)
            continue
        assert code in ("NOT_FOUND", "UNIMPLEMENTED", "INVALID_ARGUMENT"), (code, message)
        assert (code, message, got) == unknown
        if code == "INVALID_ARGUMENT":  # a base that cannot caption says so before it looks
            assert "aption" in rpc, message


@pytest.mark.parametrize(
    "rpc",
    [
        "RolloutService/GenerateRollouts",
        "RolloutService/StreamRollouts",
        "RewardService/Score",
        "RewardService/ScoreStream",
        "RewardService/ValidateReward",
        "InferenceService/Query",
        "InferenceService/StreamQuery",
        "InferenceService/StreamDetect",
        "InferenceService/GetAdapterStatus",
        "TrainerService/GetFinetune",
        "TrainerService/ComputeLogprobs",
        "TrainerService/GetCheckpoint",
        "TrainerService/DownloadAdapter",
        "JobService/GetJob",
    ],
)
async def test_the_same_calls_work_for_the_owner(stack, owned, rpc):
    for payload in NAMED[rpc] if isinstance(NAMED[rpc], list) else [NAMED[rpc]]:
        code, message, got = await call(stack, rpc, payload, owned, who="owner")
        assert code == "OK", message
        assert got
        assert b"NOT_FOUND" not in got


@pytest.mark.parametrize("rpc", UNNAMED)
async def test_nothing_of_anothers_is_in_an_answer(stack, owned, rpc):
    _, message, got = await call(stack, rpc, UNNAMED[rpc], owned, serial=rpc[-9:])
    for trace in owners_traces(owned):
        assert trace not in got
    assert not any(f"<{name}>" in message for name in owned)


@pytest.mark.parametrize("rpc", [*NAMED, *UNNAMED])
async def test_an_unknown_key_is_refused_everywhere(stack, owned, rpc):
    payload = (NAMED | UNNAMED)[rpc]
    first = payload[0] if isinstance(payload, list) else payload
    stack.keys["nobody"] = "mt_" + "x" * 43
    code, _, got = await call(stack, rpc, first, owned, who="nobody")
    served = not rpc.startswith("RewardPluginService")
    assert (code, got) == ("UNAUTHENTICATED" if served else "UNIMPLEMENTED", b"")


def http_calls(stack) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, operations in stack.openapi["paths"].items() for method in operations]


async def test_no_http_path_shows_or_changes_anothers_things(stack, owned):
    headers = {"x-moondream-auth": stack.keys["stranger"]}
    seen = 0
    for method, path in http_calls(stack):
        if path == "/v1/downloads/{token}":
            continue  # a signed link is its own right: tests/services/gateway
        bodies = list(REQUESTS.get(f"{method} {path}", {"": None}).values())
        for body in bodies:
            answers = []
            for ids in (owned, UNKNOWN):
                where = path.format(finetune_id=ids["ft"], step=1, file_id="000000001-rl=0-sft=1.json")
                sent = None if body is None else _named(body, ids["ft"])
                answer = await stack.http.request(method, where, json=sent, headers=headers)
                answers.append((answer.status_code, struck(answer.text, ids), answer.content))
            status, text, content = answers[0]
            names_it = "{finetune_id}" in path or FINETUNE in str(body)
            if names_it:
                assert status == 404, (method, path, text)
                assert answers[0][:2] == answers[1][:2], (method, path)
            for trace in owners_traces(owned):
                assert names_it or trace not in content, (method, path)
            seen += names_it
    for body in (
        {"model": f"moondream3-preview/{owned['ft']}@1"},
        {"adapter": f"{owned['ft']}/1"},
        {"adapter": f"{owned['ft']}/{owned['cp']}"},
    ):
        for path, more in (
            ("/v1/query", {"question": "x"}),
            ("/v1/query", {"question": "x", "stream": True}),
            ("/v1/detect", {"object": "x", "image_url": IMAGE_URL}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ):
            answer = await stack.http.post(path, json=body | more, headers=headers)
            assert answer.status_code == 404, answer.text
    assert seen >= 14


def _named(body, finetune_id):
    if isinstance(body, dict):
        return {key: _named(inner, finetune_id) for key, inner in body.items()}
    if isinstance(body, list):
        return [_named(inner, finetune_id) for inner in body]
    return finetune_id if body == FINETUNE else body


async def test_a_name_is_taken_in_its_own_organisation_alone(stack, owned):
    payload = ID | {"name": "owners-secret", "lora": {"rank": 4}}
    code, _, got = await call(stack, "TrainerService/CreateFinetune", payload, owned, serial="name")
    assert code == "OK"
    assert owned["ft"].encode() not in got


async def test_a_storage_quota_holds_through_the_gateway_and_directly(stack, owned):
    headers = {"x-moondream-auth": stack.keys["poor"]}
    made = await stack.http.post("/v1/tuning/finetunes", json={"name": "poor", "rank": 8}, headers=headers)
    finetune_id = made.json()["finetune_id"]
    answer = await stack.http.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save", headers=headers)
    assert (answer.status_code, int(answer.headers["retry-after"]) > 1) == (429, True), answer.text
    payload = {"requestId": "poor", "finetuneId": finetune_id}
    code, message, _ = await call(stack, "TrainerService/SaveCheckpoint", payload, owned, who="poor")
    assert (code, "quota is 1 bytes" in message) == ("RESOURCE_EXHAUSTED", True)


async def test_a_keys_rate_holds_through_the_gateway_and_directly(stack, owned):
    headers = {"x-moondream-auth": stack.keys["hasty"]}
    answers = [await stack.http.get("/v1/tuning/finetunes", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert 900 <= int(answers[1].headers["retry-after"]) <= 1000
    codes = [(await call(stack, "TrainerService/ListFinetunes", {}, owned, who="hasty"))[0] for _ in range(2)]
    assert codes == ["OK", "RESOURCE_EXHAUSTED"]  # the service counts for itself


async def test_the_owner_still_has_everything(stack, owned):
    """Runs last: nothing that the stranger did has changed anything."""
    finetune = await stack.trainer.get_finetune(owned["ft"])
    assert (finetune.step, finetune.adapter_digest) == (1, owned["digest"])
    assert [one.id for one in (await stack.trainer.list_checkpoints(owned["ft"])).items] == [owned["cp"]]
    assert "owners-reward" in {info.name for info in (await stack.reward.list_rewards(page_size=1000)).items}
    names = {point.name for point in (await stack.trainer.list_metrics(owned["ft"])).items}
    assert "x" not in names
    job = await stack.jobs.get_job(owned["job"])
    assert str(job.state) in ("queued", "validating", "running")
    assert base64.b64decode(IMAGE["data"])[:4] == b"\x89PNG"
