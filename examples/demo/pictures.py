"""Before and after on held-out images: labels, the base's answer and the finetune's, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pil
from PIL import ImageDraw

from examples.demo.scores import per_image
from examples.demo.training import Trained
from moontune.data.predictions import Prediction
from moontune.values.output import DetectOutput, PointOutput

WANTED, ANSWERED = (0, 230, 60), (255, 40, 220)
GAP_PX = 6


@dataclass(frozen=True, slots=True)
class Pair:
    """One held-out image with its score before and after."""

    before: Prediction
    after: Prediction
    score_before: float
    score_after: float


def pick(trained: Trained, metric: str, each: int = 6) -> dict[str, list[Pair]]:
    """`each` images that got better (the most first), stayed as they were, and got worse (the most first)."""
    pairs = [
        Pair(before, after, per_image(metric, before), per_image(metric, after))
        for before, after in zip(trained.before, trained.after, strict=True)
    ]
    by_gain = sorted(pairs, key=lambda pair: pair.score_before - pair.score_after)
    return {
        "improved": [pair for pair in by_gain if pair.score_after > pair.score_before][:each],
        "unchanged": [pair for pair in pairs if pair.score_after == pair.score_before][:each],
        "worse": [pair for pair in reversed(by_gain) if pair.score_after < pair.score_before][:each],
    }


def draw_pair(pair: Pair) -> Pil.Image:
    """The image twice: left the base's answer, right the finetune's (pink), over what is wanted (green)."""
    left, right = _drawn(pair.before), _drawn(pair.after)
    sheet = Pil.new("RGB", (left.width + GAP_PX + right.width, left.height), (255, 255, 255))
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + GAP_PX, 0))
    return sheet


def write_sheet(file: Path, pairs: Sequence[Pair], columns: int = 3) -> None:
    """Several pairs on one picture."""
    drawn = [draw_pair(pair) for pair in pairs]
    if not drawn:
        return
    width, height = drawn[0].width + 3 * GAP_PX, drawn[0].height + 3 * GAP_PX
    rows = -(-len(drawn) // columns)
    sheet = Pil.new("RGB", (width * min(columns, len(drawn)), height * rows), (255, 255, 255))
    for number, picture in enumerate(drawn):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    sheet.save(file)


def _drawn(prediction: Prediction) -> Pil.Image:
    with Pil.open(prediction.image) as opened:
        picture = opened.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    for box in prediction.ground_truth.boxes or ():
        corners = (box.x_min * width, box.y_min * height, box.x_max * width, box.y_max * height)
        pen.rectangle(corners, outline=WANTED, width=2)
    if isinstance(prediction.output, DetectOutput):
        for box in prediction.output.objects:
            corners = (box.x_min * width, box.y_min * height, box.x_max * width, box.y_max * height)
            pen.rectangle(corners, outline=ANSWERED, width=3)
    elif isinstance(prediction.output, PointOutput):
        for point in prediction.output.points:
            x, y = point.x * width, point.y * height
            pen.ellipse((x - 8, y - 8, x + 8, y + 8), outline=(0, 0, 0), fill=ANSWERED, width=2)
    return picture
