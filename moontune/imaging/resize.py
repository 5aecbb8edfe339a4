"""The one resampler. Pixels differ between libraries, and so would answers: PIL's LANCZOS, always."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """RGB uint8 [height, width, 3]; an image that has this size already is copied as it is."""
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)
