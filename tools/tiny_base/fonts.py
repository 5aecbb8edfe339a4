"""Printed characters from the fonts that come with matplotlib and Pillow."""

from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT_FILES = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf", "cmr10.ttf", "cmb10.ttf", "cmss10.ttf", "cmtt10.ttf",
)  # fmt: skip
POINT_SIZE = 48

Mask = NDArray[np.float32]
"""Ink per pixel, 0..1, shape [height, width]."""


@cache
def _font(index: int) -> ImageFont.FreeTypeFont:
    if index == len(FONT_FILES):
        bundled = ImageFont.load_default(POINT_SIZE)
        assert isinstance(bundled, ImageFont.FreeTypeFont)
        return bundled
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / FONT_FILES[index]), POINT_SIZE)


@cache
def printed(text: str, font: int) -> Image.Image:
    """The text in one of the FONT_COUNT fonts, white on black, mode L, with a small margin."""
    face = _font(font)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8), 0)
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, fill=255, font=face)
    return image


FONT_COUNT = len(FONT_FILES) + 1
