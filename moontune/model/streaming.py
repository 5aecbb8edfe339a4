"""Text as it is decided: pieces that joined are the whole text, none of which ends inside a character.

A token of a byte-level tokenizer can hold part of a character, which decodes to U+FFFD until the rest is there. So what
the text so far ends in is held back while it is such a mark. What a token means can depend on those before it (a
leading space), so tokens are decoded together with those since the last whole character, not one by one.
"""

from moontune.model.tokenizer import Tokenizer

HALF = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns token ids into pieces of text, one at a time."""

    def __init__(self, tokenizer: Tokenizer, *, strip: bool = True) -> None:
        """strip: hold back white space at either end, as answers do (`answers.read_output`)."""
        self._tokenizer, self._strip = tokenizer, strip
        # Tokens of the last whole stretch of text, said already, and those after it, of which `told` characters are.
        self._known: list[int] = []
        self._fresh: list[int] = []
        self._told = 0
        self._begun = False
        self._space = ""

    def push(self, token: int) -> str:
        """The text that this token completes; "" while it completes none."""
        self._fresh.append(token)
        text = self._text()
        whole = text.rstrip(HALF)
        piece, self._told = whole[self._told :], len(whole)
        if whole == text:
            self._known, self._fresh, self._told = self._fresh, [], 0
        return self._trimmed(piece)

    def close(self) -> str:
        """What is left when no more tokens come: the marks of characters that were never finished."""
        piece = self._text()[self._told :]
        self._known, self._fresh, self._told = [], [], 0
        return self._trimmed(piece)

    def _text(self) -> str:
        """Of the fresh tokens, behind the known ones."""
        return self._tokenizer.decode(self._known + self._fresh)[len(self._tokenizer.decode(self._known)) :]

    def _trimmed(self, piece: str) -> str:
        """Without leading space before the first word; trailing space waits until a word follows it."""
        if not self._strip:
            return piece
        piece = self._space + piece
        if not self._begun:
            piece = piece.lstrip()
        shown = piece.rstrip()
        self._space, self._begun = piece[len(shown) :], self._begun or bool(shown)
        return shown
