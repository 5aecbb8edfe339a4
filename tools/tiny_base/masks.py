"""Ink masks of single objects: shapes, and characters that are printed or penned, sharp or coarse."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from tools.tiny_base.fonts import FONT_COUNT, Mask, printed
from tools.tiny_base.strokes import penned

_PENNED_SHARE = 0.65
_COARSE_SHARE = 0.5
_UNIT = 64


def shape_mask(name: str, size: int, rng: Generator) -> Mask:
    """A shape about `size` pixels wide and high, turned and stretched a little; cropped to its ink."""
    image = Image.new("L", (_UNIT * 2, _UNIT * 2), 0)
    pen = ImageDraw.Draw(image)
    centre, radius = float(_UNIT), 0.75 * _UNIT
    if name in ("circle", "ring"):
        pen.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=255)
        if name == "ring":
            hole = radius * rng.uniform(0.5, 0.65)
            pen.ellipse((centre - hole, centre - hole, centre + hole, centre + hole), fill=0)
    else:
        corners = _corners(name) * radius + centre
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    return _fitted(image, size, rng.uniform(0.85, 1.18))


def character_mask(text: str, height: int, rng: Generator) -> Mask:
    """A digit or a letter `height` pixels high, written by pen or printed, sometimes as coarse as an 8x8 scan."""
    if rng.random() < _PENNED_SHARE:
        image, stretch = penned(text, rng), 1.0
    else:
        image = printed(text, int(rng.integers(FONT_COUNT)))
        image = image.rotate(rng.normal(0.0, 6.0), Image.Resampling.BILINEAR, expand=True)
        stretch = rng.uniform(0.8, 1.2)
    if rng.random() < _COARSE_SHARE:
        rows = int(rng.integers(6, 11))
        coarse = _cropped(image)
        columns = max(2, round(rows * coarse.width / coarse.height * stretch))
        image, stretch = _with_margin(coarse.resize((columns, rows), Image.Resampling.BOX)), 1.0
    return _fitted(image, height, stretch, by_height=True, smooth=rng.random() < 0.85)


def word_mask(text: str, height: int, rng: Generator) -> Mask:
    """A printed word, letters about `height` pixels high, tilted by a degree or two."""
    image = printed(text, int(rng.integers(FONT_COUNT)))
    image = image.rotate(rng.normal(0.0, 2.0), Image.Resampling.BILINEAR, expand=True)
    return _fitted(image, height, rng.uniform(0.9, 1.1), by_height=True)


def softened(mask: Mask, radius: float) -> Mask:
    """The mask, blurred, on a canvas `ceil(2 radius)` larger on each side."""
    pad = int(np.ceil(2 * radius))
    image = Image.fromarray((np.pad(mask, pad) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _corners(name: str) -> np.ndarray:
    """Corners of a polygonal shape in -1..1, [n, 2]."""
    if name == "square":
        return np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])
    if name == "diamond":
        return np.array([(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)])
    if name == "triangle":
        return np.array([(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)])
    if name == "cross":
        w = 0.33
        return np.array([(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w),
                         (-1, -w), (-w, -w)])  # fmt: skip
    if name == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        lengths = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        return np.column_stack([np.cos(angles) * lengths, np.sin(angles) * lengths])
    if name == "heart":
        t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.column_stack([x / 16, (-y - 2.5) / 15])
    raise ValueError(f"no shape is called {name!r}")


def _cropped(image: Image.Image) -> Image.Image:
    return image.crop(_ink_box(image))


def _ink_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels at least 0.4 as strong as the strongest: thin strokes fade when coarse."""
    pixels = np.asarray(image)
    inked = pixels >= 0.4 * pixels.max()
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _with_margin(image: Image.Image) -> Image.Image:
    """One empty pixel all around, so that enlarging fades out as a scan with an empty border does."""
    framed = Image.new("L", (image.width + 2, image.height + 2), 0)
    framed.paste(image, (1, 1))
    return framed


def _fitted(image: Image.Image, size: int, stretch: float, *, by_height: bool = False, smooth: bool = True) -> Mask:
    """The ink scaled to `size` pixels (its height, or its longer side), `stretch` times as wide, with its fringe."""
    box = _ink_box(image)
    ink_height, ink_width = box[3] - box[1], box[2] - box[0]
    scale = size / (ink_height if by_height else max(ink_height, ink_width))
    target = (max(3, round(image.width * scale * stretch)), max(3, round(image.height * scale)))
    filters = Image.Resampling
    kernel = filters.BICUBIC if smooth else filters.NEAREST
    grown = np.asarray(image.resize(target, kernel), np.float32) / 255
    rows, columns = np.flatnonzero(grown.max(1) > 0.03), np.flatnonzero(grown.max(0) > 0.03)
    return grown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
