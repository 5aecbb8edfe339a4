import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from moontune.imaging.crops import CropLayout, cut_crops, select_tiling

MOONDREAM = CropLayout(crop_size=378, margin=56, max_crops=12)


@pytest.mark.parametrize(
    ("width", "height", "max_crops", "tiling"),
    [
        (640, 480, 12, (2, 4)),
        (1024, 1024, 12, (3, 3)),
        (1920, 1080, 12, (2, 4)),
        (2000, 300, 12, (1, 1)),
        (378, 4000, 12, (1, 1)),
        (640, 480, 4, (2, 2)),
        (4000, 3000, 1, (1, 1)),
    ],
)
def test_tilings_as_published(width: int, height: int, max_crops: int, tiling: tuple[int, int]) -> None:
    assert MOONDREAM.window == 266
    assert select_tiling(height - 112, width - 112, 266, max_crops) == tiling


def test_one_tile_is_the_whole_image_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 300, 3), dtype=np.uint8)
    crops = cut_crops(pixels, MOONDREAM)
    assert (crops.tiling, crops.pixels.shape) == ((1, 1), (1, 378, 378, 3))
    wanted = np.asarray(Image.fromarray(pixels).resize((378, 378), Image.Resampling.LANCZOS))
    assert (crops.pixels[0] == wanted).all()


def test_an_image_of_the_crops_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (cut_crops(pixels, CropLayout(64, 8, 1)).pixels[0] == pixels).all()


def test_local_crops_overlap_by_two_margins_and_cover_the_resized_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    crops = cut_crops(pixels, MOONDREAM)
    assert (crops.tiling, crops.pixels.shape) == ((2, 4), (9, 378, 378, 3))
    size = (4 * 266 + 112, 2 * 266 + 112)
    whole = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    local = crops.pixels[1:].reshape(2, 4, 378, 378, 3)
    assert (local[0, 0] == whole[:378, :378]).all()
    assert (local[1, 3] == whole[-378:, -378:]).all()
    assert (local[0, 0, :, -112:] == local[0, 1, :, :112]).all()
    assert (local[0, 2, -112:] == local[1, 2, :112]).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 10_000), (10_000, 10), (3, 3), (2000, 379)])
def test_strange_shapes(height: int, width: int) -> None:
    crops = cut_crops(np.zeros((height, width, 3), dtype=np.uint8), MOONDREAM)
    rows, columns = crops.tiling
    assert len(crops.pixels) == (1 if rows * columns == 1 else 1 + rows * columns)
    assert len(cut_crops(np.zeros((height, width, 3), dtype=np.uint8), CropLayout(64, 8, 1)).pixels) == 1


def test_imaging_needs_no_torch() -> None:
    code = "import sys, moontune.imaging.crops, moontune.imaging.decode; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
