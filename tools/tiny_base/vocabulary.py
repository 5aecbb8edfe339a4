"""The words of the drawn world: what objects are called and what can be said about them."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "green": (40, 170, 60),
    "blue": (40, 80, 225),
    "yellow": (240, 215, 40),
    "orange": (245, 135, 25),
    "purple": (145, 50, 185),
    "white": (244, 244, 244),
    "black": (18, 18, 18),
}
"""Name -> RGB, 0..255, before jitter."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("plain", "gradient", "blobs", "noise", "stripes", "clutter", "texture", "layers")
DIGITS = tuple("0123456789")
LETTERS = tuple("AEFHKLMNTVWXY")
"""Capitals that cannot be taken for a digit."""

WORDS = (
    "cat", "dog", "sun", "car", "box", "cup", "hat", "key", "map", "pen", "bus", "tree",
    "fish", "bird", "book", "milk", "stop", "open", "exit", "sale", "home", "moon",
)  # fmt: skip
"""Words that are printed into scenes."""

BERRY_COLOURS = ("red", "purple", "green")
"""Circles of these colours are berries; which of them somebody wants is left open."""
