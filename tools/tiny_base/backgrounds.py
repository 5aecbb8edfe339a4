"""What lies behind the objects: plain, gradients, blobs, noise, stripes, clutter, and textures rich as a photograph's.

All are computed from random numbers, float32 RGB in 0..255, at half of PIXELS and then doubled.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

PIXELS = 192
"""Scenes are drawn three times as large as they are kept."""

_HALF = PIXELS // 2

Picture = NDArray[np.float32]
"""[height, width, 3], 0..255."""


def draw_background(name: str, rng: Generator) -> Picture:
    """A background of that name (see vocabulary.BACKGROUNDS)."""
    return _DRAWERS[name](rng).repeat(2, 0).repeat(2, 1)


def _colour(rng: Generator) -> NDArray[np.float32]:
    """Any colour, more often a dull one."""
    grey = rng.uniform(10, 245)
    saturation = rng.beta(1.2, 2.5)
    vivid = rng.uniform(0, 255, 3)
    return (grey * (1 - saturation) + vivid * saturation).astype(np.float32)


def _field(cells: int, channels: int, rng: Generator) -> Picture:
    """A smooth random field, [_HALF, _HALF, channels] in about -1..1, with features a `cells`-th of it across."""
    coarse = rng.normal(0.0, 0.5, (cells, cells, channels)).astype(np.float32)
    layers = [
        np.asarray(Image.fromarray(coarse[:, :, c]).resize((_HALF, _HALF), Image.Resampling.BICUBIC), np.float32)
        for c in range(channels)
    ]
    return np.stack(layers, -1)


def _plain(rng: Generator) -> Picture:
    return np.broadcast_to(_colour(rng), (_HALF, _HALF, 3)).astype(np.float32)


def _gradient(rng: Generator) -> Picture:
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, _HALF, dtype=np.float32)
    ramp = np.clip(np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None] + 0.5, 0, 1)[:, :, None]
    return _colour(rng) * (1 - ramp) + _colour(rng) * ramp


def _blobs(rng: Generator) -> Picture:
    mix = 1 / (1 + np.exp(-4 * _field(int(rng.integers(3, 9)), 1, rng)))
    return _colour(rng) * (1 - mix) + _colour(rng) * mix + 12 * _field(12, 3, rng)


def _noise(rng: Generator) -> Picture:
    cells = int(rng.choice([32, 48, 64]))
    return _colour(rng) + rng.uniform(20, 70) * _field(cells, 3 if rng.random() < 0.5 else 1, rng)


def _stripes(rng: Generator) -> Picture:
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 30)
    axis = np.arange(_HALF, dtype=np.float32)
    wave = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None] + 3 * _field(5, 1, rng)[:, :, 0]
    mix = np.clip(0.5 + rng.uniform(0.6, 4) * np.sin(2 * np.pi * wave / period), 0, 1)[:, :, None]
    first = _colour(rng)
    second = first * 0.4 + _colour(rng) * 0.6
    return first * (1 - mix) + second * mix


def _clutter(rng: Generator) -> Picture:
    """Many faint lines, patches and arcs over blobs: busy, but nothing one could name."""
    picture = Image.fromarray(np.clip(_blobs(rng), 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture, "RGBA")
    for _ in range(int(rng.integers(6, 30))):
        ink = (*(int(v) for v in _colour(rng)), int(rng.integers(40, 170)))
        x, y = rng.uniform(-10, _HALF + 10, 2)
        reach = rng.uniform(4, 45)
        kind = rng.random()
        if kind < 0.45:
            bends = [(x + rng.normal(0, reach), y + rng.normal(0, reach)) for _ in range(int(rng.integers(2, 4)))]
            pen.line(bends, fill=ink, width=int(rng.integers(1, 5)))
        elif kind < 0.7:
            bends = [
                (x + rng.normal(0, reach / 2), y + rng.normal(0, reach / 2)) for _ in range(int(rng.integers(3, 6)))
            ]
            pen.polygon(bends, fill=ink)
        elif kind < 0.85:
            start = rng.uniform(0, 360)
            box = (x - reach, y - reach, x + reach, y + reach)
            pen.arc(box, start, start + rng.uniform(30, 150), fill=ink, width=int(rng.integers(1, 5)))
        else:
            pen.rectangle((x, y, x + reach * 1.5, y + reach * rng.uniform(0.05, 0.5)), fill=ink)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.3))), np.float32)


def _texture(rng: Generator) -> Picture:
    """Fields of many scales, falling off as in photographs, in one palette with some local light."""
    falloff = rng.uniform(0.6, 1.3)
    sizes = (2, 4, 8, 16, 32, 64)
    light = sum((_field(cells, 1, rng) / (index + 1) ** falloff for index, cells in enumerate(sizes)), np.float32(0))
    tint = _field(3, 3, rng) * 25 + _field(10, 3, rng) * 12
    if rng.random() < 0.4:
        light = np.abs(light) * 1.6 - 0.5
    return _colour(rng) + light * rng.uniform(30, 90) + tint


def _layers(rng: Generator) -> Picture:
    """Regions with their own texture and hard or soft borders, as a picture of things has."""
    picture = _texture(rng)
    for _ in range(int(rng.integers(1, 5))):
        edge = _field(int(rng.integers(2, 7)), 1, rng) + rng.normal(0, 0.3)
        inside = np.clip(edge * rng.uniform(3, 40) + 0.5, 0, 1)
        kind = rng.random()
        other = _texture(rng) if kind < 0.3 else _gradient(rng) if kind < 0.75 else _stripes(rng)
        picture = picture * (1 - inside) + other * inside
    return picture


_DRAWERS = {
    "plain": _plain,
    "gradient": _gradient,
    "blobs": _blobs,
    "noise": _noise,
    "stripes": _stripes,
    "clutter": _clutter,
    "texture": _texture,
    "layers": _layers,
}
