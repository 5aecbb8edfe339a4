"""Questions about a scene with their right answers. The same generator state asks the same questions."""

from dataclasses import dataclass

from numpy.random import Generator

from moontune.values.geometry import Box, Point
from moontune.values.skill import Skill
from tools.tiny_base.descriptions import Description, describe, describe_absent
from tools.tiny_base.queries import QueryAnswer, ask_query, caption
from tools.tiny_base.scenes import Kind, Scene, SceneObject
from tools.tiny_base.vocabulary import BERRY_COLOURS

_ABSENT_SHARE = 0.16
_PLURAL_SHARE = 0.12
_REASONING_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    topic: the sort of question, for scores by sort. text: the question, the object looked for, or the caption's
    length. boxes: the answer of detect, and of point by their centres, from left to right; empty when nothing is there.
    answer, reasoning: of query and caption; reasoning None when the answer comes at once.
    ref: a place that the query is about.
    """

    skill: Skill
    topic: str
    text: str
    boxes: tuple[Box, ...] = ()
    answer: str = ""
    reasoning: str | None = None
    ref: Point | Box | None = None


def ask(scene: Scene, rng: Generator) -> Question:
    """A random question: detect .40, point .22, query .35, caption .03; a fifth of what can be reasoned is."""
    draw = rng.random()
    if draw < 0.40:
        return ask_where(scene, Skill.DETECT, rng)
    if draw < 0.62:
        return ask_where(scene, Skill.POINT, rng)
    if draw < 0.97:
        return as_question(ask_query(scene, rng), reasoning=rng.random() < _REASONING_SHARE)
    length = ("short", "normal", "long")[int(rng.integers(3))]
    return Question(Skill.CAPTION, f"caption {length}", length, answer=caption(scene, length))


def as_question(query: QueryAnswer, *, reasoning: bool) -> Question:
    """The query as a question, with its reasoning if asked for and there is any."""
    thought = query.reasoning if reasoning else None
    return Question(Skill.QUERY, query.topic, query.question, (), query.answer, thought, query.ref)


def ask_where(scene: Scene, skill: Skill, rng: Generator) -> Question:
    """Where something is: described, superlative, left open (`berry`, `lucky digit`), or absent."""
    draw = rng.random()
    if draw < _ABSENT_SHARE or not scene.objects:
        absent = describe_absent(scene, rng)
        if absent is not None:
            return Question(skill, "absent", _worded(absent, rng))
    if draw > 0.94:
        vague = _left_open(scene, rng)
        if vague is not None:
            return Question(skill, "left open", vague[0], _boxes(vague[1]))
    if draw > 0.88:
        extreme = _superlative(scene, rng)
        if extreme is not None:
            return Question(skill, "superlative", extreme[0], (extreme[1].box,))
    if not scene.objects:
        return Question(skill, "absent", _worded(Description(Kind.DIGIT), rng))
    description = describe(scene.objects[int(rng.integers(len(scene.objects)))], rng)
    kind = description.kind.value if description.kind is not None else "object"
    topic = f"named {kind}" if description.name is not None else f"any {kind}"
    return Question(skill, topic, _worded(description, rng), _boxes(description.found(scene)))


def _worded(description: Description, rng: Generator) -> str:
    synonym = 1 if rng.random() < 0.2 else 0
    return description.text(plural=rng.random() < _PLURAL_SHARE, synonym=synonym)


def _boxes(things: tuple[SceneObject, ...]) -> tuple[Box, ...]:
    return tuple(thing.box for thing in things)


def _superlative(scene: Scene, rng: Generator) -> tuple[str, SceneObject] | None:
    """`largest shape` and the like, where the size is clear."""
    kind = (Kind.SHAPE, Kind.DIGIT, None)[int(rng.integers(3))]
    things = sorted(Description(kind).found(scene), key=lambda thing: thing.box.area)
    if len(things) < 2:
        return None
    noun = Description(kind).text()
    if rng.random() < 0.5:
        return (f"largest {noun}", things[-1]) if things[-1].box.area > 1.3 * things[-2].box.area else None
    return (f"smallest {noun}", things[0]) if things[1].box.area > 1.3 * things[0].box.area else None


def _left_open(scene: Scene, rng: Generator) -> tuple[str, tuple[SceneObject, ...]] | None:
    """Words whose meaning changes from scene to scene, so that a base keeps several answers open.

    `berry`: circles of some of BERRY_COLOURS. `lucky digit`, `lucky shape`: those of one colour, or all.
    """
    if rng.random() < 0.4:
        wanted = [colour for colour in BERRY_COLOURS if rng.random() < 0.6]
        circles = Description(Kind.SHAPE, "circle").found(scene)
        if not any(thing.colour in BERRY_COLOURS for thing in circles):
            return None
        return "berry", tuple(thing for thing in circles if thing.colour in wanted)
    kind = Kind.DIGIT if rng.random() < 0.6 else Kind.SHAPE
    things = Description(kind).found(scene)
    if not things:
        return None
    colour = things[int(rng.integers(len(things)))].colour
    lucky = things if rng.random() < 0.3 else tuple(thing for thing in things if thing.colour == colour)
    return f"lucky {Description(kind).text()}", lucky
