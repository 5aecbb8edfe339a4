from pathlib import Path

import numpy as np
import pytest

from examples.demo import handwriting, photographs
from examples.demo.dataset import fingerprint, write_split
from examples.demo.scenes import COLOURS, SceneStyle, draw_scene
from moontune.data.coco import read_coco
from moontune.values.geometry import iou
from moontune.values.job import DatasetSource
from moontune.values.skill import Skill

PLAIN = SceneStyle()


def test_no_digit_and_no_photograph_is_on_both_sides():
    train, held_out = handwriting.split()
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 1797
    assert not set(photographs.TRAIN) & set(photographs.HELD_OUT)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_split_uses_its_own_side_only(tmp_path: Path, held_out: bool):
    files = write_split(tmp_path, 30, 0, held_out=held_out, style=PLAIN)
    assert files.digits <= set(handwriting.split()[held_out])
    assert files.photographs <= set(photographs.HELD_OUT if held_out else photographs.TRAIN)


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_split(tmp_path / name, 4, seed, held_out=False, style=PLAIN)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "c")


def test_boxes_are_tight_round_pure_ink():
    # Full opacity and a photograph faded to one grey: what differs from the grey is ink, and nothing else.
    style = SceneStyle(most_digits=1, opacity=(1.0, 1.0), fade=(1.0, 1.0), colours=("red",))
    for index in range(12):
        scene = draw_scene(1, index, held_out=False, style=style)
        (digit,) = scene.digits
        pixels = np.asarray(scene.picture, dtype=float)
        ground = np.median(pixels.reshape(-1, 3), axis=0)
        ink = np.array(COLOURS["red"], dtype=float)
        # Share of ink in each pixel by projection on the line from ground to ink colour.
        share = (pixels - ground) @ (ink - ground) / np.sum((ink - ground) ** 2)
        rows, columns = np.where(share > handwriting.INK_THRESHOLD + 0.1)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        box = np.array([digit.box.x_min, digit.box.y_min, digit.box.x_max, digit.box.y_max]) * style.side_px
        assert np.abs(found - box).max() <= 2.0


def test_digits_keep_apart_and_in_the_picture():
    for index in range(25):
        digits = draw_scene(0, index, held_out=True, style=PLAIN).digits
        assert 1 <= len(digits) <= PLAIN.most_digits
        for number, digit in enumerate(digits):
            digit.box.validate("box")
            assert all(iou(digit.box, other.box) == 0.0 for other in digits[:number])


def test_a_mixed_scene_has_a_red_digit_and_another():
    style = SceneStyle(mixed=True)
    for index in range(25):
        colours = [digit.colour for digit in draw_scene(0, index, held_out=False, style=style).digits]
        assert "red" in colours
        assert set(colours) - {"red"}


def test_the_coco_file_holds_the_drawn_boxes(tmp_path: Path):
    style = SceneStyle(mixed=True)
    files = write_split(tmp_path, 5, 0, held_out=False, style=style)
    every = read_coco(files.annotations, DatasetSource("x", object="digit"), Skill.DETECT)
    red = read_coco(files.annotations, DatasetSource("x", object="digit", category="red"), Skill.DETECT)
    for index, (all_boxes, red_boxes) in enumerate(zip(every, red, strict=True)):
        drawn = draw_scene(0, index, held_out=False, style=style).digits
        assert len(all_boxes.ground_truth.boxes or ()) == len(drawn)
        for got, want in zip(red_boxes.ground_truth.boxes or (), [d for d in drawn if d.colour == "red"], strict=True):
            assert iou(got, want.box) > 0.999
