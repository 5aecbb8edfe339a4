"""Descriptions that pick objects out of a scene: `red circle`, `digit 7`, `striped shape`, `letters`."""

from dataclasses import dataclass, replace

from numpy.random import Generator

from tools.tiny_base.scenes import Kind, Scene, SceneObject
from tools.tiny_base.vocabulary import COLOURS, DIGITS, LETTERS, SHAPES, WORDS

_NOUNS = {
    Kind.SHAPE: ("shape",),
    Kind.DIGIT: ("digit", "number"),
    Kind.LETTER: ("letter",),
    Kind.WORD: ("word", "text"),
}
_NAMES = {Kind.SHAPE: SHAPES, Kind.DIGIT: DIGITS, Kind.LETTER: LETTERS, Kind.WORD: WORDS}


@dataclass(frozen=True, slots=True)
class Description:
    """What an object must be to fit; None leaves it open. kind None is any object."""

    kind: Kind | None
    name: str | None = None
    colour: str | None = None
    texture: str | None = None

    def fits(self, thing: SceneObject) -> bool:
        """Whether the object is so described."""
        return (
            self.kind in (None, thing.kind)
            and self.name in (None, thing.name)
            and self.colour in (None, thing.colour)
            and self.texture in (None, thing.texture)
        )

    def found(self, scene: Scene) -> tuple[SceneObject, ...]:
        """The objects that fit, from left to right."""
        return tuple(thing for thing in scene.objects if self.fits(thing))

    def text(self, *, plural: bool = False, synonym: int = 0) -> str:
        """The words. `synonym` chooses among the nouns of the kind; characters have no plural by name."""
        if self.kind is None:
            noun = "object"
        else:
            nouns = _NOUNS[self.kind]
            noun = nouns[synonym % len(nouns)]
        if self.name is not None:
            noun = self.name if self.kind is Kind.SHAPE else f"{noun} {self.name}"
        if plural and (self.name is None or self.kind is Kind.SHAPE):
            noun += "es" if noun == "cross" else "s"
        return " ".join(word for word in (self.colour, self.texture, noun) if word is not None)


def describe(thing: SceneObject, rng: Generator) -> Description:
    """A description that fits the object: by kind, by name, by colour, by texture or by several of them."""
    choice = rng.random()
    colour = thing.colour or None
    texture = thing.texture if thing.kind is Kind.SHAPE and rng.random() < 0.12 else None
    if thing.kind is Kind.DIGIT:
        if choice < 0.42:
            return Description(Kind.DIGIT)
        if choice < 0.8:
            return Description(Kind.DIGIT, thing.name)
        return Description(Kind.DIGIT, thing.name if choice > 0.95 else None, colour)
    if choice < 0.4:
        return Description(thing.kind, thing.name, None, texture)
    if choice < 0.62:
        return Description(thing.kind, thing.name, colour, texture)
    if choice < 0.76:
        return Description(thing.kind, None, colour, texture)
    if choice < 0.9:
        return Description(thing.kind, None, None, texture)
    return Description(None, None, colour if choice < 0.95 else None)


def describe_absent(scene: Scene, rng: Generator) -> Description | None:
    """A description that nothing fits, near to what is there (another digit, another colour); None if that fails."""
    for _ in range(6):
        if scene.objects and rng.random() < 0.75:
            thing = scene.objects[int(rng.integers(len(scene.objects)))]
            description = describe(thing, rng)
            if description.kind is not None and description.name is not None and rng.random() < 0.7:
                description = replace(description, name=str(rng.choice(_NAMES[description.kind])))
            elif description.colour is not None:
                description = replace(description, colour=str(rng.choice(list(COLOURS))))
        else:
            kind = list(Kind)[int(rng.choice(4, p=[0.3, 0.4, 0.15, 0.15]))]
            description = Description(kind, str(rng.choice(_NAMES[kind])) if rng.random() < 0.5 else None)
        if not description.found(scene):
            return description
    return None


def article(text: str) -> str:
    """The text with `a` or `an` before it."""
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def full_text(thing: SceneObject) -> str:
    """All that names the object: `red circle`, `digit 7`."""
    colour = thing.colour or None
    texture = thing.texture if thing.texture != "plain" else None
    return Description(thing.kind, thing.name, colour, texture).text()


def unique(scene: Scene, rng: Generator, *, with_colour: bool = True) -> tuple[SceneObject, str] | None:
    """A random object that some description picks out alone, and the words of it; None if none is found."""
    if not scene.objects:
        return None
    for _ in range(4):
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        colour = (thing.colour or None) if with_colour else None
        options = (
            Description(thing.kind, thing.name),
            Description(thing.kind, thing.name, colour),
            Description(thing.kind, None, colour),
        )
        for index in rng.permutation(3):
            description = options[int(index)]
            if len(description.found(scene)) == 1 and (with_colour or description.colour is None):
                return thing, description.text()
    return None
