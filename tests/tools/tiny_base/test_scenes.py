"""Scenes are the same for the same seed, and their boxes are tight around what was drawn."""

import numpy as np
import pytest

from moontune.values.geometry import Box, iou
from tools.tiny_base.backgrounds import PIXELS, draw_background
from tools.tiny_base.dataset import CLASSES, GRID, dense_labels
from tools.tiny_base.masks import character_mask, shape_mask
from tools.tiny_base.scenes import SIDE, Kind, Scene, SceneObject, draw_scene, place, tight_box
from tools.tiny_base.vocabulary import BACKGROUNDS, DIGITS, LETTERS, SHAPES


def test_same_seed_same_scene_and_other_seed_another():
    picture, scene = draw_scene(11)
    again, same = draw_scene(11)
    other, _ = draw_scene(12)
    assert np.array_equal(picture, again)
    assert scene == same
    assert not np.array_equal(picture, other)
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8


def test_objects_are_inside_apart_and_in_order():
    for seed in range(40):
        _, scene = draw_scene(seed)
        centres = [thing.box.centre.x for thing in scene.objects]
        assert centres == sorted(centres)
        for index, thing in enumerate(scene.objects):
            thing.box.validate("box")
            assert all(iou(thing.box, other.box) < 0.05 for other in scene.objects[:index])


@pytest.mark.parametrize("kind, name", [(Kind.SHAPE, "ring"), (Kind.DIGIT, "7"), (Kind.WORD, "moon")])
def test_box_is_what_changed_on_a_plain_canvas(kind: Kind, name: str):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        canvas = np.full((PIXELS, PIXELS, 3), 128.0, np.float32)
        thing = place(canvas, kind, name, [], rng, underlay_share=0.0)
        if thing is None:  # a grey near the canvas's
            continue
        changed = np.abs(canvas - 128.0).max(-1)
        strong = changed > 0.55 * changed.max()
        rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
        found = (columns[0] / PIXELS, rows[0] / PIXELS, (columns[-1] + 1) / PIXELS, (rows[-1] + 1) / PIXELS)
        given = (thing.box.x_min, thing.box.y_min, thing.box.x_max, thing.box.y_max)
        assert np.abs(np.subtract(found, given)).max() <= 5 / PIXELS  # 5 of 192: a soft edge


def test_tight_box_by_hand():
    mask = np.zeros((6, 8), np.float32)
    mask[2:5, 3:7] = 0.8
    mask[0, 0] = 0.1  # a faint fringe does not count
    assert tight_box(mask, left=10, top=20) == Box(13 / PIXELS, 22 / PIXELS, 17 / PIXELS, 25 / PIXELS)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_fill_their_size(name: str):
    mask = shape_mask(name, 40, np.random.default_rng(0))
    assert 38 <= max(mask.shape) <= 52
    assert mask.max() > 0.95


@pytest.mark.parametrize("text", (*DIGITS, *LETTERS))
def test_characters_have_the_height_asked_for_in_every_style(text: str):
    for seed in range(12):
        mask = character_mask(text, 45, np.random.default_rng(seed))
        box = tight_box(mask, 0, 0)
        assert 36 <= box.height * PIXELS <= 50


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_are_finite_and_repeat(name: str):
    first, second = (draw_background(name, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (PIXELS, PIXELS, 3)
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)


def test_dense_labels_by_hand():
    big = SceneObject(Kind.SHAPE, "circle", "red", "plain", Box(0.0, 0.0, 0.5, 0.5))
    small = SceneObject(Kind.DIGIT, "3", "", "plain", Box(0.63, 0.63, 0.68, 0.7))  # over no patch's middle
    classes, colours, boxes = dense_labels(Scene((big, small), "plain"))
    grid = classes.reshape(GRID, GRID)
    assert (grid[:4, :4] == 1).all()
    assert grid[5, 5] == 1 + len(SHAPES) + 3
    assert (grid > 0).sum() == 17
    assert grid.max() < CLASSES
    assert colours.reshape(GRID, GRID)[0, 0] == 1
    assert colours.reshape(GRID, GRID)[5, 5] == 0
    assert np.allclose(boxes.reshape(GRID, GRID, 4)[1, 2], (0.25, 0.25, 0.5, 0.5))
