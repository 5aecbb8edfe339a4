"""The demo's data sets on disk: ordinary JPEG files with a COCO JSON, one folder a split."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from examples.demo.scenes import Scene, SceneStyle, draw_scene
from moontune.data.coco import CocoImage, write_coco
from moontune.values.geometry import Box

JPEG_QUALITY = 92
HELD_OUT_SEED = 1_000
"""Held-out scenes are the same for every seed of the demo, so that seeds compare on one yardstick."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """One split on disk: its COCO file, and what it was made of (photographs' names, digits' indices)."""

    annotations: Path
    photographs: frozenset[str]
    digits: frozenset[int]


def write_split(folder: Path, count: int, seed: int, *, held_out: bool, style: SceneStyle) -> SplitFiles:
    """Draw `count` scenes into `folder` (emptied first).

    Categories are the digits' labels, or their colours where the style is mixed, so that a job can ask for one colour.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    entries: list[CocoImage] = []
    photographs: set[str] = set()
    digits: set[int] = set()
    for index in range(count):
        scene = draw_scene(seed, index, held_out=held_out, style=style)
        name = f"images/{index:04d}.jpg"
        scene.picture.save(folder / name, quality=JPEG_QUALITY)
        entries.append(CocoImage(name, *scene.picture.size, _objects(scene, style)))
        photographs.add(scene.photograph)
        digits.update(digit.source for digit in scene.digits)
    annotations = folder / "annotations.json"
    write_coco(annotations, entries)
    return SplitFiles(annotations, frozenset(photographs), frozenset(digits))


def _objects(scene: Scene, style: SceneStyle) -> tuple[tuple[str, Box], ...]:
    return tuple((digit.colour if style.mixed else str(digit.label), digit.box) for digit in scene.digits)


def fingerprint(folder: Path) -> str:
    """SHA-256 over every file's name and bytes, in order: two data sets with one fingerprint are the same."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
