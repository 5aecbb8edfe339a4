"""A streamed answer in pieces: text that cannot change any more, and objects that are finished."""

from moontune.engine.order import Piece
from moontune.values.inference import TextDelta
from moontune.values.output import CaptionOutput, Output, PointOutput, QueryOutput

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What decoding shows for the bytes of a character that is not whole yet."""


class Pieces:
    """What has been said so far. The pieces, joined, are the final output."""

    def __init__(self) -> None:
        """Nothing said."""
        self._reasoning = self._text = ""
        self._objects = 0

    def more(self, output: Output, *, last: bool = False) -> list[Piece]:
        """What `output`, the reading of all decisions so far, says beyond the pieces before."""
        if isinstance(output, QueryOutput | CaptionOutput):
            thoughts = output.reasoning.text if isinstance(output, QueryOutput) and output.reasoning else ""
            text = output.answer if isinstance(output, QueryOutput) else output.caption
            reasoning = _beyond(self._reasoning, thoughts, last=last)
            said = _beyond(self._text, text, last=last)
            self._reasoning, self._text = self._reasoning + reasoning, self._text + said
            return [TextDelta(part, thinks) for part, thinks in ((reasoning, True), (said, False)) if part]
        objects = output.points if isinstance(output, PointOutput) else output.objects
        new, self._objects = objects[self._objects :], len(objects)
        return list(new)


def _beyond(said: str, text: str, *, last: bool) -> str:
    settled = text if last else text.rstrip(_HALF_CHARACTER)
    return settled[len(said) :] if settled.startswith(said) else ""
