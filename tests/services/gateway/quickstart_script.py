"""The loop of the public quickstart with the official client, on pictures and a score of our own.

    python quickstart_script.py http://127.0.0.1:8080

Two circles, and only pointing at the left one is paid for. Prints the mean reward of each step's attempts.
"""

import json
import sys

import moondream as md
from PIL import Image, ImageDraw

COLOURS = ("red", "blue", "green", "orange")
STEPS, PICTURES, ROLLOUTS = 14, 6, 8


def picture(index):
    image = Image.new("RGB", (128, 128), (225, 225, 215))
    draw, radius, y = ImageDraw.Draw(image), 13 + index % 4, 44 + 11 * (index % 5)
    for x in (34 - index % 7, 92 + index % 6):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[index % len(COLOURS)])
    return image


def score(output):
    points = output["points"]
    return sum(point["x"] < 0.5 for point in points) / len(points) if points else 0.0


def main(base_url):
    ft = md.ft("any-key", name="lucky-left", rank=8, endpoint=f"{base_url}/v1/tuning")
    pictures, means = [picture(index) for index in range(PICTURES)], []
    for _ in range(STEPS):
        groups = []
        asked = [
            (None, {"skill": "point", "image": image, "object": "lucky shape", "num_rollouts": ROLLOUTS,
                    "settings": {"max_objects": 6}})
            for image in pictures
        ]  # fmt: skip
        for _, answer in ft.rollout_stream(asked, max_concurrency=4):
            rewards = [score(rollout["output"]) for rollout in answer["rollouts"]]
            group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"], "rewards": rewards}
            groups.append(group)
        rewards = [reward for group in groups for reward in group["rewards"]]
        means.append(sum(rewards) / len(rewards))
        result = ft.train_step(groups, lr=3e-3)
        ft.log_metrics(result["step"], {"eval/reward": means[-1]})
    ft.save_checkpoint()
    print(json.dumps(means))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
