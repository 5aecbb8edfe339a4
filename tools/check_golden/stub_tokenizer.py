"""The golden data's tokenizer: one id per UTF-8 byte, id = byte + 64; other ids are shown as `<id>`."""

from moontune.model.tokenizer import Tokenizer

OFFSET = 64


class StubTokenizer(Tokenizer):
    """Encodes bytes; decodes every id to something visible, special ones too."""

    def __init__(self) -> None:
        """Needs no file."""

    def encode(self, text: str) -> list[int]:
        """Ids of the text's UTF-8 bytes."""
        return [byte + OFFSET for byte in text.encode()]

    def decode(self, ids: list[int]) -> str:
        """Printable bytes as themselves, everything else in angle brackets."""
        return "".join(chr(i - OFFSET) if 32 <= i - OFFSET < 127 else f"<{i}>" for i in ids)
