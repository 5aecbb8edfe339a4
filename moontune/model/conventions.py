"""Where Moondream's own inference differs from ours. Ours is used everywhere; upstream's, where parity is checked.

Two more differences are the base's own and stand in its config: the doubled answer token (`tokenizer.query.suffix`)
and whether another object follows any token but end of text (`tokenizer.go_on`).
"""

from dataclasses import dataclass

from moontune.model.codec import CoordDecoding


@dataclass(frozen=True, slots=True)
class Conventions:
    """How choices are allowed and read.

    decoding: how a coordinate's bin becomes a number, in what is fed back and in what is answered. clip_boxes: to
    0..1. free_first: the first choice of a text, and of objects, is made over the whole vocabulary. strip: leave out
    the space with which answers begin.
    """

    decoding: CoordDecoding = CoordDecoding.EXACT
    clip_boxes: bool = True
    free_first: bool = False
    strip: bool = True


OURS = Conventions()
UPSTREAM = Conventions(CoordDecoding.UPSTREAM, clip_boxes=False, free_first=True, strip=False)
