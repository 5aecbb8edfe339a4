"""Your own loop in Python: teach the tiny base a preference that no label states, by a score alone.

Each picture has a circle on the left and one on the right, and the model is asked for the "lucky shape". Which one that
is, only the score knows: it pays for pointing at the left one.
Start the services first, then run this:

    moontune up
    python -m examples.own_loop
"""

import argparse
import io

from PIL import Image as Pil
from PIL import ImageDraw

from moontune.clients.sync import SyncRolloutClient, SyncTrainerClient
from moontune.values.finetune import LoraSettings, NewFinetune
from moontune.values.image import Image
from moontune.values.output import Output, PointOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout_order import RolloutOrder
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from moontune.values.training import RlGroup, TrainSettings, TrainStep

COLOURS = ("red", "blue", "green", "orange")
STEPS, ROLLOUTS = 20, 8


def picture(index: int) -> Image:
    """A 128-pixel PNG with two circles of one colour; position and size vary with the index."""
    canvas = Pil.new("RGB", (128, 128), (225, 225, 215))
    draw = ImageDraw.Draw(canvas)
    radius, y = 13 + index % 4, 44 + 11 * (index % 5)
    for x in (34 - index % 7, 92 + index % 6):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[index % len(COLOURS)])
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return Image.of(file.getvalue())


def score(output: Output) -> float:
    """Share of the points that are in the left half; 0 for no point at all."""
    if not isinstance(output, PointOutput) or not output.points:
        return 0.0
    return sum(point.x < 0.5 for point in output.points) / len(output.points)


def train(trainer: SyncTrainerClient, rollouts: SyncRolloutClient, name: str, steps: int = STEPS) -> list[float]:
    """The loop; returns the mean score of each step's attempts."""
    sampling = SamplingSettings(max_objects=6)
    requests = [SkillRequest(Skill.POINT, picture(i), object="lucky shape", settings=sampling) for i in range(8)]
    settings = TrainSettings(learning_rate=3e-3)
    finetune = trainer.create_finetune(NewFinetune("", name, lora=LoraSettings(rank=8)))
    means: list[float] = []
    for step in range(steps):
        model = f"{finetune.base}/{finetune.id}@{finetune.step}"
        made = [rollouts.generate(RolloutOrder(model, request, ROLLOUTS, seed=step)) for request in requests]
        groups = tuple(RlGroup(g.request, g.rollouts, tuple(score(r.output) for r in g.rollouts)) for g in made)
        trainer.train_step(TrainStep(finetune.id, "", groups, settings, expected_step=finetune.step))
        finetune = trainer.get_finetune(finetune.id)
        rewards = [reward for group in groups for reward in group.rewards if reward is not None]
        means.append(sum(rewards) / len(rewards))
    return means


def main() -> None:
    """Connect, train, save, say how it is served."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trainer", default="127.0.0.1:7053")
    options.add_argument("--rollout", default="127.0.0.1:7051")
    options.add_argument("--name", default="lucky-left")
    given = options.parse_args()
    with SyncTrainerClient(given.trainer) as trainer, SyncRolloutClient(given.rollout) as rollouts:
        for step, mean in enumerate(train(trainer, rollouts, given.name)):
            print(f"step {step:2d}  mean score {mean:.2f}  {'#' * round(40 * mean)}")
        finetune = next(item for item in trainer.list_finetunes().items if item.name == given.name)
        saved = trainer.save_checkpoint(finetune.id)
        print(f"serve it as {finetune.base}/{finetune.id}@{saved.step}")


if __name__ == "__main__":
    main()
