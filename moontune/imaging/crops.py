"""Tiling: an image as one crop of the whole and, when it is large, overlapping crops of its parts.

The arithmetic is Moondream's, so that published weights see what they were trained on. One departure: with
`max_crops` 1 an image is never tiled (upstream's rounding would still give a long image two crops).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moontune.imaging.resize import resize


@dataclass(frozen=True, slots=True)
class CropLayout:
    """How a base cuts images. crop_size and margin in pixels; the margin is what a crop shares on each side."""

    crop_size: int
    margin: int
    max_crops: int

    @property
    def window(self) -> int:
        """Pixels of a crop between its margins: the stride of the tiling."""
        return self.crop_size - 2 * self.margin


@dataclass(frozen=True, slots=True, eq=False)
class ImageCrops:
    """RGB uint8 crops [N, size, size, 3]: first the whole image, then rows * columns local ones, row by row.

    With tiling (1, 1) the local crop equals the global one and is left out: N is 1.
    """

    pixels: NDArray[np.uint8]
    tiling: tuple[int, int]


def select_tiling(height: int, width: int, window: int, max_crops: int) -> tuple[int, int]:
    """Rows and columns for an image of this size, margins already taken off.

    (1, 1) when either side fits one window. Else enough windows to cover the image at its own resolution; when that
    is more than `max_crops`, both counts shrink alike; when it is fewer, they grow towards the image's aspect. Each
    count is at least 1, so a very long image can get more than `max_crops` (upstream does).
    """
    if max_crops == 1 or height <= window or width <= window:
        return 1, 1
    rows, columns = math.ceil(height / window), math.ceil(width / window)
    if rows * columns > max_crops:
        shrink = math.sqrt(max_crops / (rows * columns))
        return max(1, math.floor(rows * shrink)), max(1, math.floor(columns * shrink))
    rows = max(rows, math.floor(math.sqrt(max_crops * height / width)))
    columns = max(columns, math.floor(math.sqrt(max_crops * width / height)))
    if rows * columns > max_crops:
        if columns > rows:
            columns = math.floor(max_crops / rows)
        else:
            rows = math.floor(max_crops / columns)
    return max(1, rows), max(1, columns)


def cut_crops(pixels: NDArray[np.uint8], layout: CropLayout) -> ImageCrops:
    """The crops of an RGB image of any size."""
    height, width, _ = pixels.shape
    size, margins = layout.crop_size, 2 * layout.margin
    tiling = select_tiling(height - margins, width - margins, layout.window, layout.max_crops)
    image = Image.fromarray(pixels)
    crops = [resize(image, size, size)]
    rows, columns = tiling
    if rows * columns > 1:
        whole = resize(image, columns * layout.window + margins, rows * layout.window + margins)
        starts = [(row * layout.window, column * layout.window) for row in range(rows) for column in range(columns)]
        crops += [whole[top : top + size, left : left + size] for top, left in starts]
    return ImageCrops(np.stack(crops), tiling)
