"""Queries and captions: each sort of question is one function that asks it of a scene, or returns None if it cannot."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from moontune.values.geometry import Box, Point
from tools.tiny_base.descriptions import Description, article, describe, describe_absent, full_text, unique
from tools.tiny_base.scenes import Kind, Scene, SceneObject
from tools.tiny_base.vocabulary import COLOURS, SHAPES


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """A question in words with its answer and, where there is something to think about, the thought."""

    topic: str
    question: str
    answer: str
    reasoning: str | None = None
    ref: Point | Box | None = None


def ask_query(scene: Scene, rng: Generator) -> QueryAnswer:
    """A random question that the scene can answer."""
    weights = [weight for weight, _ in _SORTS]
    total = sum(weights)
    while True:
        sort = int(rng.choice(len(_SORTS), p=[weight / total for weight in weights]))
        asked = _SORTS[sort][1](scene, rng)
        if asked is not None:
            return asked


def caption(scene: Scene, length: str) -> str:
    """A caption: kinds counted (short), things named (normal), things named with places (long)."""
    if not scene.objects:
        return "Nothing."
    if length == "short":
        kinds = [(kind, sum(thing.kind is kind for thing in scene.objects)) for kind in Kind]
        return _listed([f"{count} {Description(kind).text(plural=count > 1)}" for kind, count in kinds if count]) + "."
    names = [article(full_text(thing)) for thing in scene.objects]
    if length == "long":
        names = [f"{name} at the {_place(thing)}" for name, thing in zip(names, scene.objects, strict=True)]
    return _listed(names) + "."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _place(thing: SceneObject) -> str:
    x, y = thing.box.centre.x, thing.box.centre.y
    across = "left" if x < 0.4 else "right" if x > 0.6 else ""
    down = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    return " ".join(word for word in (down, across) if word) or "middle"


def _count(scene: Scene, rng: Generator) -> QueryAnswer | None:
    if scene.objects and rng.random() < 0.9:
        described = describe(scene.objects[int(rng.integers(len(scene.objects)))], rng)
    else:
        described = describe_absent(scene, rng) or Description(None)
    found = described.found(scene)
    named = ", ".join(full_text(thing) for thing in found) if found else "none"
    question = f"How many {described.text(plural=True)} are there?"
    return QueryAnswer("count", question, str(len(found)), f"{named}.")


def _colour(scene: Scene, rng: Generator) -> QueryAnswer | None:
    chosen = unique(scene, rng, with_colour=False)
    if chosen is None or not chosen[0].colour:
        return None
    return QueryAnswer("colour", f"What colour is the {chosen[1]}?", chosen[0].colour)


def _shape(scene: Scene, rng: Generator) -> QueryAnswer | None:
    thing = _one_of(scene, Kind.SHAPE, rng)
    if thing is None or len(Description(Kind.SHAPE, None, thing.colour).found(scene)) != 1:
        return None
    return QueryAnswer("shape", f"What is the {thing.colour} shape?", thing.name)


def _digit(scene: Scene, rng: Generator) -> QueryAnswer | None:
    """Read a digit: the only one, the one of a colour, or the one on a side."""
    digits = Description(Kind.DIGIT).found(scene)
    if not digits:
        return None
    in_order = f"digits {', '.join(thing.name for thing in digits)}."
    thing = digits[int(rng.integers(len(digits)))]
    draw = rng.random()
    if len(digits) == 1:
        words = ("Which digit is this?", "What digit is there?", "What is the digit?", "What number is this?")
        return QueryAnswer("digit", words[int(rng.integers(4))], thing.name)
    if draw < 0.4 and thing.colour and len(Description(Kind.DIGIT, None, thing.colour).found(scene)) == 1:
        return QueryAnswer("digit", f"What is the {thing.colour} digit?", thing.name, in_order)
    side, end = (("left", digits[0]), ("right", digits[-1]))[int(rng.integers(2))]
    if draw < 0.75:
        return QueryAnswer("digit", f"What is the digit on the {side}?", end.name, in_order)
    return QueryAnswer("digits", "Which digits are there?", ", ".join(thing.name for thing in digits))


def _letter_or_word(scene: Scene, rng: Generator) -> QueryAnswer | None:
    for kind, topic, only in (
        (Kind.WORD, "word", "What does it say?"),
        (Kind.LETTER, "letter", "Which letter is this?"),
    ):
        things = Description(kind).found(scene)
        if len(things) == 1:
            return QueryAnswer(topic, only, things[0].name)
        for thing in things:
            if thing.colour and len(Description(kind, None, thing.colour).found(scene)) == 1:
                return QueryAnswer(topic, f"What is the {thing.colour} {topic}?", thing.name)
    return None


def _exists(scene: Scene, rng: Generator) -> QueryAnswer | None:
    if rng.random() < 0.5 and scene.objects:
        described = describe(scene.objects[int(rng.integers(len(scene.objects)))], rng)
        text = described.text()
        named = ", ".join(full_text(thing) for thing in described.found(scene))
        return QueryAnswer("exists", f"Is there {article(text)}?", "yes", f"{named}.")
    absent = describe_absent(scene, rng)
    return absent and QueryAnswer("exists", f"Is there {article(absent.text())}?", "no", "none.")


def _more(scene: Scene, rng: Generator) -> QueryAnswer | None:
    """Compare two counts that differ; as many yes as no."""
    pair = _colours_or_names(scene, rng)
    if pair is None:
        return None
    counted = sorted(((len(each.found(scene)), index) for index, each in enumerate(pair)), reverse=True)
    if counted[0][0] == counted[1][0]:
        return None
    yes = rng.random() < 0.5
    order = counted if yes else counted[::-1]
    first, second = (pair[index].text(plural=True) for _, index in order)
    thought = f"{order[0][0]} {first}, {order[1][0]} {second}."
    return QueryAnswer("more", f"Are there more {first} than {second}?", "yes" if yes else "no", thought)


def _colours_or_names(scene: Scene, rng: Generator) -> tuple[Description, Description] | None:
    """Two descriptions of one sort (digits and letters, circles and stars, red and blue); one of them is there."""
    if not scene.objects:
        return None
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    draw = rng.random()
    if thing.kind is Kind.SHAPE and draw < 0.5:
        other = str(rng.choice([name for name in SHAPES if name != thing.name]))
        others = [each.name for each in scene.objects if each.kind is Kind.SHAPE and each.name != thing.name]
        chosen = str(rng.choice(others)) if others and rng.random() < 0.75 else other
        return Description(Kind.SHAPE, thing.name), Description(Kind.SHAPE, chosen)
    if thing.colour and draw < 0.75:
        other = str(rng.choice([name for name in COLOURS if name != thing.colour]))
        others = [each.colour for each in scene.objects if each.colour not in ("", thing.colour)]
        chosen = str(rng.choice(others)) if others and rng.random() < 0.75 else other
        kind = thing.kind if rng.random() < 0.5 else None
        return Description(kind, None, thing.colour), Description(kind, None, chosen)
    other_kind = Kind.SHAPE if thing.kind is not Kind.SHAPE else Kind.DIGIT
    return Description(thing.kind), Description(other_kind)


def _relation(scene: Scene, rng: Generator) -> QueryAnswer | None:
    """Is one thing left of, right of, above or below another, by a clear distance."""
    first, second = unique(scene, rng), unique(scene, rng)
    if first is None or second is None or first[0] == second[0]:
        return None
    a, b = first[0].box.centre, second[0].box.centre
    word, gap = (("left of", b.x - a.x), ("right of", a.x - b.x), ("above", b.y - a.y), ("below", a.y - b.y))[
        int(rng.integers(4))
    ]
    if abs(gap) < 0.08:
        return None
    return QueryAnswer("relation", f"Is the {first[1]} {word} the {second[1]}?", "yes" if gap > 0 else "no")


def _larger(scene: Scene, rng: Generator) -> QueryAnswer | None:
    first, second = unique(scene, rng), unique(scene, rng)
    if first is None or second is None or first[0] == second[0]:
        return None
    ratio = first[0].box.area / second[0].box.area
    if 0.7 < ratio < 1.4:
        return None
    return QueryAnswer("larger", f"Is the {first[1]} larger than the {second[1]}?", "yes" if ratio > 1 else "no")


def _texture(scene: Scene, rng: Generator) -> QueryAnswer | None:
    thing = _one_of(scene, Kind.SHAPE, rng)
    if thing is None or len(Description(Kind.SHAPE, thing.name).found(scene)) != 1:
        return None
    return QueryAnswer("texture", f"What texture is the {thing.name}?", thing.texture)


def _background(scene: Scene, rng: Generator) -> QueryAnswer | None:
    clear = {"plain": "plain", "gradient": "gradient", "stripes": "striped", "noise": "noisy"}
    return QueryAnswer("background", "What is the background?", clear.get(scene.background, "busy"))


def _this(scene: Scene, rng: Generator) -> QueryAnswer | None:
    """What is at a given point or in a given box."""
    if not scene.objects:
        return None
    box = scene.objects[int(rng.integers(len(scene.objects)))]
    ref = box.box if rng.random() < 0.5 else box.box.centre
    return QueryAnswer("place", "What is this?", full_text(box), ref=ref)


def _one_of(scene: Scene, kind: Kind, rng: Generator) -> SceneObject | None:
    things = Description(kind).found(scene)
    return things[int(rng.integers(len(things)))] if things else None


_SORTS: tuple[tuple[float, Callable[[Scene, Generator], QueryAnswer | None]], ...] = (
    (0.15, _count),
    (0.10, _colour),
    (0.07, _shape),
    (0.22, _digit),
    (0.07, _letter_or_word),
    (0.09, _exists),
    (0.14, _more),
    (0.08, _relation),
    (0.06, _larger),
    (0.03, _texture),
    (0.01, _background),
    (0.06, _this),
)
