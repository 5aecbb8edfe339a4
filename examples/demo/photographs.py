"""Real photographs out of scikit-image and scikit-learn, split once and for all between training and held-out.

Pictures with printed text or numbers in them (`page`, `text`, `clock_motion`, `coins`) are left out: a printed digit
in the background would be an unlabelled target.
"""

from functools import cache

import numpy as np
from PIL import Image as Pil
from skimage import data
from sklearn.datasets import load_sample_image

TRAIN = ("chelsea", "coffee", "rocket", "china", "grass", "camera", "brick")
HELD_OUT = ("astronaut", "flower", "motorcycle", "gravel", "moon", "immunohistochemistry")
"""Two disjoint lists; `motorcycle` is the left picture of the stereo pair only."""


@cache
def photograph(name: str) -> Pil.Image:
    """One photograph as RGB, whole, by its name in TRAIN or HELD_OUT."""
    if name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
    elif name == "motorcycle":
        pixels = data.stereo_motorcycle()[0]
    else:
        pixels = getattr(data, name)()
    return Pil.fromarray(np.asarray(pixels)).convert("RGB")


def backdrop(rng: np.random.Generator, names: tuple[str, ...], side_px: int) -> tuple[str, Pil.Image]:
    """A random square cut of a random photograph, mirrored half of the time: (photograph's name, side_px square)."""
    name = names[int(rng.integers(len(names)))]
    source = photograph(name)
    shorter = min(source.size)
    cut_px = int(rng.integers(max(shorter // 3, 120), shorter + 1))
    left = int(rng.integers(source.width - cut_px + 1))
    top = int(rng.integers(source.height - cut_px + 1))
    square = source.crop((left, top, left + cut_px, top + cut_px)).resize((side_px, side_px), Pil.Resampling.BICUBIC)
    if rng.random() < 0.5:
        square = square.transpose(Pil.Transpose.FLIP_LEFT_RIGHT)
    return name, square
