"""The drawn scenes of a pre-training run: pictures and dense labels as memory-mapped arrays, kept in a cache folder."""

import itertools
import multiprocessing
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.tiny_base.scenes import SIDE, Kind, Scene, SceneObject, draw_scene
from tools.tiny_base.vocabulary import COLOURS, DIGITS, SHAPES

PATCH = 8
GRID = SIDE // PATCH
CLASSES = 1 + len(SHAPES) + len(DIGITS) + 2
"""Of a patch: background, each shape, each digit, letter, word."""
COLOUR_CLASSES = 1 + len(COLOURS)
_RECIPE = 4
"""Part of the cache's name: raise it when scenes change."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """pixels [n, SIDE, SIDE, 3] uint8; by patch: classes, colours [n, P] uint8, boxes [n, P, 4] fp16 (centre, size)."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    boxes: NDArray[np.float16]
    scenes: list[Scene]


def load_or_draw(folder: Path, count: int, first_seed: int, processes: int) -> Scenes:
    """Scenes of the seeds first_seed ... first_seed + count - 1, drawn once and then read from the cache."""
    name = f"scenes-{_RECIPE}-{first_seed}-{count}"
    if not (folder / name / "done").exists():
        (folder / name).mkdir(parents=True, exist_ok=True)
        shares = [(folder / name, part, first_seed + start, stop - start)
                  for part, (start, stop) in enumerate(_shares(count, processes))]  # fmt: skip
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            pool.starmap(_draw_share, shares)
        _join(folder / name, processes)
    return _read(folder / name)


def dense_labels(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Class, colour and box of the smallest object over the middle of each patch; small objects have one patch too."""
    classes, colours = np.zeros(GRID * GRID, np.uint8), np.zeros(GRID * GRID, np.uint8)
    boxes = np.zeros((GRID * GRID, 4), np.float16)
    middles = (np.arange(GRID) + 0.5) / GRID
    for thing in sorted(scene.objects, key=lambda thing: -thing.box.area):
        box = thing.box
        rows, columns = (middles > box.y_min) & (middles < box.y_max), (middles > box.x_min) & (middles < box.x_max)
        inside = rows[:, None] & columns
        inside[min(GRID - 1, int(box.centre.y * GRID)), min(GRID - 1, int(box.centre.x * GRID))] = True
        flat = inside.ravel()
        classes[flat] = _class(thing)
        colours[flat] = 1 + list(COLOURS).index(thing.colour) if thing.colour else 0
        boxes[flat] = (box.centre.x, box.centre.y, box.width, box.height)
    return classes, colours, boxes


def _class(thing: SceneObject) -> int:
    if thing.kind is Kind.SHAPE:
        return 1 + SHAPES.index(thing.name)
    if thing.kind is Kind.DIGIT:
        return 1 + len(SHAPES) + int(thing.name)
    return CLASSES - 2 if thing.kind is Kind.LETTER else CLASSES - 1


def _shares(count: int, parts: int) -> list[tuple[int, int]]:
    edges = [count * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _draw_share(folder: Path, part: int, first_seed: int, count: int) -> None:
    drawn = [draw_scene(seed) for seed in range(first_seed, first_seed + count)]
    labels = [dense_labels(scene) for _, scene in drawn]
    np.save(folder / f"pixels-{part}.npy", np.stack([picture for picture, _ in drawn]))
    for name, column in zip(("classes", "colours", "boxes"), zip(*labels, strict=True), strict=True):
        np.save(folder / f"{name}-{part}.npy", np.stack(column))
    with (folder / f"scenes-{part}.pickle").open("wb") as file:
        pickle.dump([scene for _, scene in drawn], file)


def _join(folder: Path, parts: int) -> None:
    for name in ("pixels", "classes", "colours", "boxes"):
        files = [folder / f"{name}-{part}.npy" for part in range(parts)]
        np.save(folder / f"{name}.npy", np.concatenate([np.load(file) for file in files]))
        for file in files:
            file.unlink()
    scenes: list[Scene] = []
    for part in range(parts):
        with (folder / f"scenes-{part}.pickle").open("rb") as file:
            scenes += pickle.load(file)  # noqa: S301  our own file
    with (folder / "scenes.pickle").open("wb") as file:
        pickle.dump(scenes, file)
    (folder / "done").touch()


def _read(folder: Path) -> Scenes:
    with (folder / "scenes.pickle").open("rb") as file:
        scenes: list[Scene] = pickle.load(file)  # noqa: S301  our own file
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pixels", "classes", "colours", "boxes")]
    return Scenes(arrays[0], arrays[1], arrays[2], arrays[3], scenes)
