"""Pieces of a stream: whole characters, and joined exactly the text of the whole."""

from hypothesis import given, settings
from hypothesis import strategies as st

from moontune.model.streaming import HALF, TextStream
from moontune.model.tokenizer import Tokenizer
from tests.fakes.tiny_base import byte_tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
"""One token per byte: every character beyond ASCII comes in parts."""


def pieces(ids: list[int], *, strip: bool) -> list[str]:
    stream = TextStream(TOKENIZER, strip=strip)
    return [*(stream.push(token) for token in ids), stream.close()]


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=60)
def test_joined_pieces_are_the_text_and_none_ends_inside_a_character(text: str) -> None:
    text = text.replace(HALF, "?")
    ids = TOKENIZER.encode(text)
    plain = pieces(ids, strip=False)
    assert "".join(plain) == TOKENIZER.decode(ids) == text
    assert not any(HALF in piece for piece in plain)
    assert "".join(pieces(ids, strip=True)) == text.strip()


def test_a_character_comes_with_its_last_byte() -> None:
    assert pieces(TOKENIZER.encode("aé🙂"), strip=False) == ["a", "", "é", "", "", "", "🙂", ""]


def test_space_waits_for_the_next_word_and_the_last_one_never_comes() -> None:
    assert pieces(TOKENIZER.encode(" a b "), strip=True) == ["", "a", "", " b", "", ""]


@given(st.lists(st.integers(10, 265), max_size=24))
@settings(deadline=None, max_examples=60)
def test_bytes_that_are_no_text_are_marked_as_the_tokenizer_marks_them(ids: list[int]) -> None:
    """Random bytes: nothing is lost, and nothing is held for ever."""
    assert "".join(pieces(ids, strip=False)) == TOKENIZER.decode(ids)


def test_tokens_that_straddle_characters_hold_nothing_whole_back() -> None:
    """Three bytes a character, two bytes a token: no token but every third ends on a whole character."""

    class Pairs(Tokenizer):
        def decode(self, ids: list[int]) -> str:
            return b"".join(bytes(divmod(index, 256)) for index in ids).decode(errors="replace")

    data = "アイ".encode()
    stream = TextStream(Pairs(byte_tokenizer()), strip=False)
    said = [stream.push(256 * first + second) for first, second in zip(data[::2], data[1::2], strict=True)]
    assert said == ["", "ア", "イ"]


def test_special_tokens_say_nothing() -> None:
    assert pieces([3, *TOKENIZER.encode("x"), 0], strip=False) == ["", "x", "", ""]
