"""The official client's happy path against a running gateway; run by another interpreter with nothing of ours.

    python official_client_script.py http://127.0.0.1:8080 [caption]

Prints one JSON object with what the caller checks. It only uses what Moondream documents: no import of moontune.
"""

import json
import sys

import moondream as md
from PIL import Image, ImageDraw

BOX = {"x_min": 0.25, "y_min": 0.25, "x_max": 0.5, "y_max": 0.5}


def picture():
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).rectangle((32, 32, 64, 64), fill="red")
    return image


def main(base_url):
    image, seen = picture(), {}
    tuning, inference = f"{base_url}/v1/tuning", f"{base_url}/v1"
    ft = md.ft("any-key", name="official-client", rank=8, endpoint=tuning)
    seen["idempotent"] = md.ft("k", name="official-client", rank=8, endpoint=tuning).finetune_id == ft.finetune_id
    seen["opened"] = md.ft("k", finetune_id=ft.finetune_id, endpoint=tuning).rank

    detect = ft.rollouts("detect", image=image, object="red square", num_rollouts=4, ground_truth={"boxes": [BOX]})
    point = ft.rollouts("point", image=image, object="red square", num_rollouts=2, ground_truth={"boxes": [BOX]})
    query = ft.rollouts("query", image=image, question="What colour is the square?", num_rollouts=2, reasoning=True)
    greedy = ft.rollouts("detect", image=image, object="red square", settings={"temperature": 0.0})
    seen["rewards"] = [len(detect["rewards"]), len(point["rewards"]), query["rewards"]]
    seen["greedy"] = len(greedy["rollouts"])

    def rl(answer):
        rewards = [index / 4 for index in range(len(answer["rollouts"]))]
        return {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"], "rewards": rewards}

    sft = {
        "mode": "sft",
        "request": {"skill": "detect", "image": image, "object": "red square"},
        "target": {"boxes": [BOX]},
    }
    groups = [rl(detect), rl(point), rl(query), sft]
    first = ft.train_step(groups, lr=1e-3)
    twice = ft.train_step(groups, lr=1e-3)
    seen["steps"] = [first["step"], first["applied"], twice["step"], twice["applied"]]
    seen["unverified"] = first["metrics"].get("unverified_groups")
    seen["logged"] = ft.log_metrics(twice["step"], {"eval/f1": 0.5})["logged_count"]

    work = ((n, {"skill": "detect", "image": image, "object": "red square", "num_rollouts": 2}) for n in range(4))
    lags = []
    for _, answer in ft.rollout_stream(work, max_concurrency=2, buffer_size=2):
        lags.append(ft.train_step([rl(answer)], lr=1e-4)["metrics"].get("staleness_max"))
    seen["stream"] = len(lags)

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
        }
    ft.delete_checkpoint(saved["step"])
    ft.delete()
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
