"""The official client's happy path against a running gateway; run by another interpreter with nothing of ours.

    python official_client_script.py http://127.0.0.1:8080

Prints one JSON object with what the caller checks. It only uses what Moondream documents: no import of moontune.
"""

import base64
import io
import json
import sys
import urllib.error
import urllib.request

import moondream as md
from PIL import Image, ImageDraw

BOX = {"x_min": 0.25, "y_min": 0.25, "x_max": 0.5, "y_max": 0.5}


def picture():
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).rectangle((32, 32, 64, 64), fill="red")
    return image


def captions(vl, image):
    """Plain and streamed; or the clear refusal of a base that has none."""
    try:
        plain = vl.caption(image, length="short")["caption"]
        return isinstance(plain, str) and isinstance("".join(vl.caption(image, stream=True)["caption"]), str)
    except urllib.error.HTTPError as error:
        return error.code == 400 and "caption" in json.loads(error.read())["error"]["message"]


def chats(vl, image):
    """Plain and streamed, words and image."""
    file = io.BytesIO()
    image.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [{"type": "text", "text": "What colour is the square?"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": parts}]
    plain = vl.chat(messages, settings={"max_tokens": 8})
    streamed = "".join(vl.chat(messages, stream=True, settings={"max_tokens": 8})["message"])
    return plain["message"]["role"] == "assistant" and isinstance(streamed, str)


def main(base_url):
    image, seen = picture(), {}
    tuning, inference = f"{base_url}/v1/tuning", f"{base_url}/v1"
    ft = md.ft("any-key", name="official-client", rank=8, endpoint=tuning)
    seen["idempotent"] = md.ft("k", name="official-client", rank=8, endpoint=tuning).finetune_id == ft.finetune_id
    seen["opened"] = md.ft("k", finetune_id=ft.finetune_id, endpoint=tuning).rank

    detect = ft.rollouts("detect", image=image, object="red square", num_rollouts=4, ground_truth={"boxes": [BOX]})
    point = ft.rollouts("point", image=image, object="red square", num_rollouts=2, ground_truth={"boxes": [BOX]})
    marked = {"points": [{"x": 0.375, "y": 0.375}]}
    pointed = ft.rollouts("point", image=image, object="red square", num_rollouts=2, ground_truth=marked)
    bare = [ft.rollouts(skill, image=image, object="red square", num_rollouts=2) for skill in ("detect", "point")]
    seen["bare"] = [answer["rewards"] for answer in bare]
    query = ft.rollouts("query", image=image, question="What colour is the square?", num_rollouts=2, reasoning=True)
    greedy = ft.rollouts("detect", image=image, object="red square", settings={"temperature": 0.0})
    seen["rewards"] = [len(detect["rewards"]), len(point["rewards"]), len(pointed["rewards"]), query["rewards"]]
    seen["greedy"] = len(greedy["rollouts"])

    def rl(answer):
        rewards = [index / 4 for index in range(len(answer["rollouts"]))]
        return {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"], "rewards": rewards}

    sft = {
        "mode": "sft",
        "request": {"skill": "detect", "image": image, "object": "red square"},
        "target": {"boxes": [BOX]},
    }
    told = {
        "mode": "sft",
        "request": {"skill": "query", "image": image, "question": "What colour is the square?"},
        "target": {"answer": "red"},
    }
    groups = [rl(detect), rl(point), rl(query), rl(bare[0]), sft, told]
    first = ft.train_step(groups, lr=1e-3)
    twice = ft.train_step(groups, lr=1e-3)
    seen["steps"] = [first["step"], first["applied"], twice["step"], twice["applied"]]
    seen["unverified"] = first["metrics"].get("unverified_groups")
    seen["logged"] = ft.log_metrics(twice["step"], {"eval/f1": 0.5})["logged_count"]

    work = ((n, {"skill": "detect", "image": image, "object": "red square", "num_rollouts": 4}) for n in range(10))
    steps = [ft.train_step([rl(answer)], lr=1e-3)["metrics"] for _, answer in ft.rollout_stream(work)]
    seen["stream"] = len(steps)
    # Rollouts made ahead come from earlier policies, and the trainer learns that from the record inside them.
    seen["lag"] = max(step.get("staleness_max", 0.0) for step in steps)
    seen["ratios"] = sorted({round(step["max_ratio"], 6) for step in steps if "max_ratio" in step})
    seen["verified"] = sum(step["unverified_groups"] for step in steps) == 0

    saved = ft.save_checkpoint()["checkpoint"]
    seen["saved"] = saved["step"] == ft.save_checkpoint()["checkpoint"]["step"]
    seen["listed"] = [one["step"] for one in ft.list_checkpoints()["checkpoints"]] == [saved["step"]]

    for name, vl in {
        "base": md.vl(endpoint=inference, api_key="k"),
        "tuned": md.vl(endpoint=inference, api_key="k", model=ft.model(saved["step"])),
    }.items():
        seen[name] = {
            "query": isinstance(vl.query(image, "What colour is the square?")["answer"], str),
            "stream": isinstance("".join(vl.query(image, "What colour is the square?", stream=True)["answer"]), str),
            "point": isinstance(vl.point(image, "red square")["points"], list),
            "detect": isinstance(vl.detect(image, "red square")["objects"], list),
            "caption": captions(vl, image),
            "chat": chats(vl, image),
        }
    where = f"{tuning}/finetunes/{ft.finetune_id}/checkpoints/{saved['step']}/download"
    with urllib.request.urlopen(urllib.request.Request(where, headers={"X-Moondream-Auth": "k"})) as answer:
        link = json.loads(answer.read())
    with urllib.request.urlopen(link["url"]) as file:  # without a key, as Photon fetches it
        seen["downloaded"] = len(file.read()) > 1000
    ft.delete_checkpoint(saved["step"])
    ft.delete()
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
