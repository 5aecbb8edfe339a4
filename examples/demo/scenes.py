"""Scenes of the demo: handwritten digits laid on photographs, each with the tight box of its ink."""

from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil

from examples.demo import handwriting, photographs
from moontune.values.geometry import Box, iou

COLOURS = {
    "red": (228, 26, 28),
    "blue": (40, 90, 230),
    "green": (40, 190, 60),
    "yellow": (250, 225, 40),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
"""Ink colours, RGB."""


@dataclass(frozen=True, slots=True)
class SceneStyle:
    """What a scene looks like.

    side_px: of the square picture. most_digits: 1 to this many are tried. height: of a digit, as a share of the side.
    opacity: of the ink. fade: how far the photograph is pulled to its mean colour, 0 leaves it as it is.
    colours: of the ink. mixed: at least one digit in the first colour and one in another.
    """

    side_px: int = 256
    most_digits: int = 4
    height: tuple[float, float] = (0.17, 0.32)
    opacity: tuple[float, float] = (0.85, 1.0)
    fade: tuple[float, float] = (0.0, 0.45)
    colours: tuple[str, ...] = tuple(COLOURS)
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class PlacedDigit:
    """One digit of a scene: its index in `load_digits`, label 0..9, ink colour, and box in 0..1."""

    source: int
    label: int
    colour: str
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and what is on it. photograph: the background's name."""

    picture: Pil.Image
    photograph: str
    digits: tuple[PlacedDigit, ...]


def draw_scene(seed: int, index: int, *, held_out: bool, style: SceneStyle) -> Scene:
    """Scene `index` of a seed; the same arguments draw the same pixels."""
    for attempt in range(100):
        scene = _try_scene(np.random.default_rng([seed, int(held_out), index, attempt]), held_out, style)
        if scene is not None:
            return scene
    raise RuntimeError(f"no scene {index} of seed {seed} came out in 100 tries; ease {style}")


def _try_scene(rng: np.random.Generator, held_out: bool, style: SceneStyle) -> Scene | None:
    """One scene, or None when a digit that must be there found no place where it can be seen."""
    names = photographs.HELD_OUT if held_out else photographs.TRAIN
    sources = handwriting.split()[int(held_out)]
    name, picture = photographs.backdrop(rng, names, style.side_px)
    canvas = _faded(np.asarray(picture, dtype=np.float64), float(rng.uniform(*style.fade)))
    must = 2 if style.mixed else 1
    placed: list[PlacedDigit] = []
    for colour in _colours(rng, style, int(rng.integers(must, style.most_digits + 1))):
        digit = _place(rng, canvas, sources, style, colour, [other.box for other in placed])
        if digit is not None:
            placed.append(digit)
        elif len(placed) < must:
            return None
    pixels = np.clip(canvas + rng.normal(0.0, 3.0, canvas.shape), 0, 255).astype(np.uint8)
    return Scene(Pil.fromarray(pixels), name, tuple(placed))


def _faded(canvas: np.ndarray, fade: float) -> np.ndarray:
    return canvas * (1 - fade) + canvas.mean(axis=(0, 1)) * fade


def _colours(rng: np.random.Generator, style: SceneStyle, count: int) -> list[str]:
    drawn = [style.colours[int(rng.integers(len(style.colours)))] for _ in range(count)]
    if style.mixed:
        others = style.colours[1:]
        drawn[:2] = [style.colours[0], others[int(rng.integers(len(others)))]]
    return drawn


def _place(
    rng: np.random.Generator,
    canvas: np.ndarray,
    sources: tuple[int, ...],
    style: SceneStyle,
    colour: str,
    taken: list[Box],
) -> PlacedDigit | None:
    """Lay one digit where none is yet, in place on `canvas`; None if 40 tries found no room."""
    side = style.side_px
    for _ in range(40):
        digit = handwriting.ink(rng, sources, int(rng.uniform(*style.height) * side))
        height, width = digit.alpha.shape
        left, top = int(rng.integers(2, side - width - 2)), int(rng.integers(2, side - height - 2))
        box = Box(left / side, top / side, (left + width) / side, (top + height) / side)
        if any(iou(_grown(box), _grown(other)) > 0.0 for other in taken):
            continue
        if not _visible(canvas[top : top + height, left : left + width], colour):
            continue
        alpha = digit.alpha[..., None] * float(rng.uniform(*style.opacity))
        patch = canvas[top : top + height, left : left + width]
        canvas[top : top + height, left : left + width] = patch * (1 - alpha) + np.array(COLOURS[colour]) * alpha
        return PlacedDigit(digit.source, digit.label, colour, box)
    return None


def _grown(box: Box) -> Box:
    """The box with a margin of 2 % of the side, so that digits never touch."""
    return Box(box.x_min - 0.02, box.y_min - 0.02, box.x_max + 0.02, box.y_max + 0.02)


def _visible(patch: np.ndarray, colour: str) -> bool:
    """Whether a person could make the ink out on this patch: its mean distance from it is 90 of 441 at least."""
    return bool(np.linalg.norm(patch - np.array(COLOURS[colour]), axis=2).mean() >= 90.0)
