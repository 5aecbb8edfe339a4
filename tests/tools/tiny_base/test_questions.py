"""Answers are right: checked on a scene whose answers are known, and by recounting on many drawn ones."""

import re
from collections import defaultdict

import numpy as np
import pytest

from moontune.values.geometry import Box, Point
from moontune.values.skill import Skill
from tools.tiny_base.descriptions import Description
from tools.tiny_base.queries import QueryAnswer, ask_query, caption
from tools.tiny_base.questions import Question, ask, ask_where
from tools.tiny_base.scenes import Kind, Scene, SceneObject, draw_scene


def _thing(kind: Kind, name: str, colour: str, x: float, y: float, side: float) -> SceneObject:
    return SceneObject(kind, name, colour, "plain", Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2))


SCENE = Scene(
    (
        _thing(Kind.SHAPE, "circle", "red", 0.2, 0.8, 0.3),
        _thing(Kind.DIGIT, "7", "blue", 0.4, 0.2, 0.2),
        _thing(Kind.SHAPE, "circle", "green", 0.6, 0.8, 0.1),
        _thing(Kind.DIGIT, "4", "", 0.8, 0.3, 0.2),
    ),
    "stripes",
)


def _asked(topic: str) -> dict[str, QueryAnswer]:
    """Every question of a topic that SCENE gives in many draws, by its words."""
    rng = np.random.default_rng(0)
    drawn = (ask_query(SCENE, rng) for _ in range(3000))
    return {query.question: query for query in drawn if query.topic == topic}


@pytest.mark.parametrize(
    "topic, question, answer",
    [
        ("count", "How many circles are there?", "2"),
        ("count", "How many digits are there?", "2"),
        ("colour", "What colour is the digit 7?", "blue"),
        ("shape", "What is the red shape?", "circle"),
        ("digit", "What is the digit on the left?", "7"),
        ("digit", "What is the digit on the right?", "4"),
        ("digits", "Which digits are there?", "7, 4"),
        ("relation", "Is the digit 7 above the red circle?", "yes"),
        ("relation", "Is the digit 4 left of the digit 7?", "no"),
        ("larger", "Is the red circle larger than the digit 7?", "yes"),
        ("background", "What is the background?", "striped"),
    ],
)
def test_known_answers(topic: str, question: str, answer: str):
    assert _asked(topic)[question].answer == answer


def test_reasoning_names_what_was_counted():
    assert _asked("count")["How many circles are there?"].reasoning == "red circle, green circle."


def test_place_is_about_the_object_at_the_reference():
    for query in _asked("place").values():
        ref = query.ref
        centre = ref if isinstance(ref, Point) else ref.centre if ref is not None else Point(0, 0)
        [thing] = [thing for thing in SCENE.objects if thing.box.contains(centre)]
        assert query.answer.endswith(thing.name)


def test_where_answers_hold_exactly_the_described_objects():
    rng = np.random.default_rng(1)
    seen = {question.text: question.boxes for question in (ask_where(SCENE, Skill.DETECT, rng) for _ in range(2000))}
    boxes = [thing.box for thing in SCENE.objects]
    assert seen["circle"] == (boxes[0], boxes[2])
    assert seen["digit"] == (boxes[1], boxes[3])
    assert seen["digit 4"] == (boxes[3],)
    assert seen["red circle"] == (boxes[0],)
    assert seen["object"] == tuple(boxes)
    assert seen["largest shape"] == (boxes[0],)
    assert seen["digit 3"] == ()


def test_counts_of_drawn_scenes_by_recounting():
    rng = np.random.default_rng(2)
    for seed in range(60):
        _, scene = draw_scene(seed)
        for _ in range(20):
            query = ask_query(scene, rng)
            match = re.fullmatch(r"How many (\w+)s are there\?", query.question)
            if match and match[1] in ("digit", "letter", "word", "shape"):
                assert query.answer == str(sum(thing.kind == match[1] for thing in scene.objects))


def test_yes_and_no_are_balanced_for_comparisons():
    rng = np.random.default_rng(3)
    answers: dict[str, list[str]] = defaultdict(list)
    for seed in range(80):
        _, scene = draw_scene(seed)
        for _ in range(40):
            query = ask_query(scene, rng)
            answers[query.topic].append(query.answer)
    for topic in ("more", "relation", "larger", "exists"):
        share = answers[topic].count("yes") / len(answers[topic])
        assert 0.4 < share < 0.62, (topic, share)


def test_same_generator_same_questions():
    def asked() -> list[Question]:
        rng = np.random.default_rng(5)
        return [ask(SCENE, rng) for _ in range(50)]

    assert asked() == asked()


def test_captions():
    assert caption(SCENE, "short") == "2 shapes and 2 digits."
    assert caption(SCENE, "normal") == "a red circle, a blue digit 7, a green circle and a digit 4."
    assert caption(Scene((), "plain"), "long") == "Nothing."


def test_description_words():
    assert Description(Kind.SHAPE, "cross").text(plural=True) == "crosses"
    assert Description(Kind.DIGIT, "7", "red").text() == "red digit 7"
    assert Description(Kind.DIGIT).text(synonym=1, plural=True) == "numbers"
    assert Description(None, None, "red").text() == "red object"
