"""Scenes: objects on a background, with everything that can be asked about them. One seed, one scene."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from moontune.values.geometry import Box, iou
from tools.tiny_base.backgrounds import PIXELS, Picture, draw_background
from tools.tiny_base.fonts import Mask
from tools.tiny_base.masks import character_mask, shape_mask, softened, word_mask
from tools.tiny_base.vocabulary import BACKGROUNDS, COLOURS, DIGITS, LETTERS, SHAPES, TEXTURES, WORDS

SIDE = 64
"""Width and height of a finished scene, pixels."""
_SCALE = PIXELS // SIDE
_INK = 0.45
_MAX_OVERLAP = 0.04


class Kind(StrEnum):
    """What sort of thing an object is."""

    SHAPE = "shape"
    DIGIT = "digit"
    LETTER = "letter"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing in a scene.

    name: of the shape, or the text. colour: a name, or "" where no name fits. box: tight around the ink.
    """

    kind: Kind
    name: str
    colour: str
    texture: str
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects, from left to right by centre, and the name of the background."""

    objects: tuple[SceneObject, ...]
    background: str


def draw_scene(seed: int) -> tuple[NDArray[np.uint8], Scene]:
    """The picture [SIDE, SIDE, 3] of this seed and what it shows."""
    rng = np.random.default_rng([20261121, seed])
    background = str(rng.choice(BACKGROUNDS, p=[0.08, 0.1, 0.12, 0.08, 0.1, 0.18, 0.14, 0.2]))
    canvas = draw_background(background, rng)
    placed: list[SceneObject] = []
    for kind, name in _cast(rng):
        drawn = place(canvas, kind, name, placed, rng)
        if drawn is not None:
            placed.append(drawn)
    small = canvas.reshape(SIDE, _SCALE, SIDE, _SCALE, 3).mean((1, 3))
    small += rng.normal(0.0, rng.uniform(0, 7), small.shape)
    placed.sort(key=lambda thing: (thing.box.centre.x, thing.box.centre.y))
    return np.clip(small, 0, 255).astype(np.uint8), Scene(tuple(placed), background)


def _cast(rng: Generator) -> list[tuple[Kind, str]]:
    """Who appears: a kind of scene first, then its objects and some distractors; classes often repeat."""
    kind = rng.random()
    if kind < 0.36:
        pool = list(rng.choice(SHAPES, int(rng.integers(1, 5)), replace=False))
        return [(Kind.SHAPE, str(rng.choice(pool))) for _ in range(int(rng.integers(1, 7)))]
    if kind < 0.82:
        pool = list(rng.choice(DIGITS, int(rng.integers(1, 6)), replace=False))
        count = 1 + int(rng.choice(5, p=[0.27, 0.27, 0.22, 0.14, 0.1]))
        cast = [(Kind.DIGIT, str(rng.choice(pool))) for _ in range(count)]
        return cast + _distractors(rng, 0 if rng.random() < 0.5 else int(rng.integers(1, 3)))
    if kind < 0.92:
        words = [(Kind.WORD, str(name)) for name in rng.choice(WORDS, 1 if rng.random() < 0.75 else 2, replace=False)]
        return words + _distractors(rng, int(rng.integers(0, 3)))
    return _distractors(rng, int(rng.integers(0, 5)))


def _distractors(rng: Generator, count: int) -> list[tuple[Kind, str]]:
    kinds = rng.choice(3, count, p=[0.45, 0.2, 0.35])
    names = ((Kind.SHAPE, SHAPES), (Kind.DIGIT, DIGITS), (Kind.LETTER, LETTERS))
    return [(names[k][0], str(rng.choice(names[k][1]))) for k in kinds]


def place(
    canvas: Picture, kind: Kind, name: str, placed: list[SceneObject], rng: Generator, underlay_share: float = 0.22
) -> SceneObject | None:
    """Draw the object where it neither covers another nor vanishes into the background; None if no place is found.

    underlay_share: of characters that stand on a halo or a piece of paper.
    """
    for _ in range(8):
        mask = _mask(kind, name, rng)
        height, width = mask.shape
        if height > PIXELS - 4 or width > PIXELS - 4:
            continue
        top, left = int(rng.integers(2, PIXELS - height - 1)), int(rng.integers(2, PIXELS - width - 1))
        box = tight_box(mask, left, top)
        if any(iou(_grown(box), _grown(other.box)) > _MAX_OVERLAP for other in placed):
            continue
        patch = canvas[top : top + height, left : left + width]
        colour, rgb = _ink_colour(kind, rng)
        contrast = float(np.abs(patch[mask >= _INK * mask.max()].mean(0) - rgb).mean())
        if contrast < (38.0 if kind is Kind.SHAPE else 32.0):
            continue
        texture = "plain"
        if kind is Kind.SHAPE:
            texture = str(rng.choice(TEXTURES, p=[0.7, 0.18, 0.12]))
        elif rng.random() < underlay_share:
            _underlay(canvas, mask, left, top, rgb, rng)
        _blend(patch, mask, rgb, texture, rng)
        return SceneObject(kind, name, colour, texture, box)
    return None


def _mask(kind: Kind, name: str, rng: Generator) -> Mask:
    if kind is Kind.SHAPE:
        return shape_mask(name, int(rng.uniform(8, 27) * _SCALE), rng)
    if kind is Kind.WORD:
        return word_mask(name, int(rng.uniform(8, 15) * _SCALE), rng)
    mask = character_mask(name, int(rng.uniform(9, 26) * _SCALE), rng)
    return softened(mask, rng.uniform(0.8, 2.5)) if rng.random() < 0.25 else mask


def tight_box(mask: Mask, left: int, top: int) -> Box:
    """The box of the pixels at least as inked as _INK of the strongest."""
    inked = mask >= _INK * mask.max()
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return Box(
        float(left + columns[0]) / PIXELS,
        float(top + rows[0]) / PIXELS,
        float(left + columns[-1] + 1) / PIXELS,
        float(top + rows[-1] + 1) / PIXELS,
    )


def _grown(box: Box) -> Box:
    """A little larger, so that neighbours keep a distance."""
    return Box(box.x_min - 0.01, box.y_min - 0.01, box.x_max + 0.01, box.y_max + 0.01)


def _ink_colour(kind: Kind, rng: Generator) -> tuple[str, NDArray[np.float64]]:
    """A named colour with jitter; characters are often white, black or some unnamed shade."""
    if kind is not Kind.SHAPE and rng.random() < 0.5:
        shade = rng.random()
        if shade < 0.4:
            return "white", rng.uniform(225, 255, 3)
        if shade < 0.8:
            return "black", rng.uniform(0, 35, 3)
        return "", np.clip(rng.uniform(30, 225) + rng.normal(0, 25, 3), 0, 255)
    name = str(rng.choice(list(COLOURS)))
    return name, np.clip(np.asarray(COLOURS[name]) + rng.normal(0, 10, 3), 0, 255)


def _underlay(canvas: Picture, mask: Mask, left: int, top: int, rgb: NDArray[np.float64], rng: Generator) -> None:
    """Something behind a character that helps or hinders: a halo, or a piece of paper in a contrasting tone."""
    tone = rng.uniform(190, 255) if rgb.mean() < 128 else rng.uniform(0, 65)
    spread = int(rng.integers(3, 10))
    if rng.random() < 0.5:
        alpha = np.clip(softened(mask, spread / 2.0) * 2.2, 0, 1) * rng.uniform(0.4, 1.0)
        pad = (alpha.shape[0] - mask.shape[0]) // 2
    else:
        pad = spread
        alpha = np.full((mask.shape[0] + 2 * pad, mask.shape[1] + 2 * pad), rng.uniform(0.35, 1.0), np.float32)
    y0, x0 = top - pad, left - pad
    y1, x1 = min(PIXELS, y0 + alpha.shape[0]), min(PIXELS, x0 + alpha.shape[1])
    alpha = alpha[max(0, -y0) : y1 - y0, max(0, -x0) : x1 - x0, None]
    patch = canvas[max(0, y0) : y1, max(0, x0) : x1]
    patch += alpha * ((tone + rng.normal(0, 12, 3)).astype(np.float32) - patch)


def _blend(patch: Picture, mask: Mask, rgb: NDArray[np.float64], texture: str, rng: Generator) -> None:
    """Lay the colour over the patch where the mask has ink, with a texture and some shading."""
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    tone = 1 + rng.uniform(-0.15, 0.15) * (x / width - 0.5) + rng.uniform(-0.15, 0.15) * (y / height - 0.5)
    paint = tone[:, :, None] * rgb.astype(np.float32)
    if texture != "plain":
        period = rng.uniform(11, 16)
        angle = rng.uniform(0, np.pi)
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        wave = np.sin(2 * np.pi * u / period)
        marked = wave > 0 if texture == "striped" else (wave > 0.1) & (np.sin(2 * np.pi * v / period) > 0.1)
        other = np.float32(0.0 if rgb.mean() > 120 else 255.0)
        paint = np.where(marked[:, :, None], paint * 0.4 + other * 0.6, paint)
    strength = 1.0 if texture != "plain" or rng.random() < 0.6 else rng.uniform(0.7, 1.0)
    patch += (mask * np.float32(strength))[:, :, None] * (paint - patch)
