"""The official client with its timeouts shortened; run by another interpreter with nothing of ours.

    python impatient_client_script.py http://127.0.0.1:8080 train_step|rollouts CALLS TIMEOUT_S

Makes the same call so often, one after the other, and prints what each answered.
"""

import json
import sys

import moondream as md
from moondream import finetune as client
from PIL import Image


def main(base_url, call, calls, timeout_s):
    ft = md.ft("any-key", name="impatient", rank=8, endpoint=f"{base_url}/v1/tuning")
    image = Image.new("RGB", (64, 64), "white")
    first = ft.rollouts("detect", image=image, object="a", num_rollouts=2) if call == "train_step" else None
    client._TRAIN_REQUEST_TIMEOUT = timeout_s
    client._RETRY_BASE_DELAY = 0.02
    client.Finetune._request_json.__defaults__ = (None, None, timeout_s)
    seen = []
    for _ in range(calls):
        if first is not None:
            group = {"mode": "rl", "request": first["request"], "rollouts": first["rollouts"], "rewards": [0.0, 1.0]}
            seen.append(ft.train_step([group], lr=1e-4)["step"])
        else:
            answer = ft.rollouts("detect", image=image, object="a", num_rollouts=2)
            seen.append([rollout["moontune"]["seed"] for rollout in answer["rollouts"]])
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
