"""Example grades as one picture: labels green, the answer magenta, the reward below each image."""

from pathlib import Path

from PIL import Image as Pil
from PIL import ImageDraw

from moontune.cli.reward_trial import Trial
from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.reward_report import GradedExample, SampleGroup

WANTED, ANSWERED = (0, 200, 60), (255, 40, 220)
SIDE_PX, CAPTION_PX, GAP_PX, COLUMNS = 320, 44, 8, 3


def write_pictures(file: Path, trial: Trial) -> None:
    """Draw the report's examples into one file; its suffix names the format."""
    tiles = [
        _tile(trial.asked.pictures[example.group_index], trial.asked.groups[example.group_index], example)
        for example in trial.report.examples
    ]
    columns = max(1, min(COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    width, height = SIDE_PX + GAP_PX, SIDE_PX + CAPTION_PX + GAP_PX
    sheet = Pil.new("RGB", (width * columns, max(1, rows) * height), (255, 255, 255))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(file)
    except (OSError, ValueError) as error:
        raise InvalidField.of("pictures", str(file), f"a .png or .jpg that can be written ({error})") from error


def _tile(picture: Path, group: SampleGroup, example: GradedExample) -> Pil.Image:
    output, result = group.outputs[example.output_index], example.result
    with Pil.open(picture) as opened:
        image = opened.convert("RGB")
    image.thumbnail((SIDE_PX, SIDE_PX)) if max(image.size) > SIDE_PX else None
    scale = SIDE_PX // max(image.size)
    image = image.resize((image.width * max(1, scale), image.height * max(1, scale)), Pil.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    truth = group.ground_truth
    for place in (*(truth.boxes or ()), *(truth.points or ())):
        _mark(pen, image.size, place, WANTED, 2)
    for place in _places(output):
        _mark(pen, image.size, place, ANSWERED, 1)
    tile = Pil.new("RGB", (SIDE_PX, SIDE_PX + CAPTION_PX), (255, 255, 255))
    tile.paste(image, (0, 0))
    score = "no score" if result.reward is None else f"{result.reward:.3f}"
    words = _words(output) or f"{group.request.object}: {len(_places(output))} said"
    ImageDraw.Draw(tile).text((4, SIDE_PX + 4), f"{score}  {words}\n{result.detail[:50]}", fill=(0, 0, 0))
    return tile


def _places(output: Output) -> tuple[Box | Point, ...]:
    if isinstance(output, DetectOutput):
        return output.objects
    return output.points if isinstance(output, PointOutput) else ()


def _words(output: Output) -> str:
    if isinstance(output, QueryOutput):
        return repr(output.answer[:40])
    return repr(output.caption[:40]) if isinstance(output, CaptionOutput) else ""


def _mark(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], place: Box | Point, colour: tuple[int, int, int], width_px: int
) -> None:
    width, height = size
    if isinstance(place, Point):
        x, y = place.x * width, place.y * height
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), outline=colour, width=width_px + 1)
    elif place.x_min < place.x_max and place.y_min < place.y_max:
        corners = (place.x_min * width, place.y_min * height, place.x_max * width, place.y_max * height)
        pen.rectangle(corners, outline=colour, width=width_px)
