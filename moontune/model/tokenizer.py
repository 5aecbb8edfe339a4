"""Text to token ids and back: a `tokenizers` file kept beside the weights."""

from pathlib import Path

from tokenizers import Tokenizer as FileTokenizer

from moontune.errors import InvalidField


class Tokenizer:
    """Encodes and decodes text; knows nothing of prompts or special ids."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        """Wrap a loaded tokenizer."""
        # A user's text that spells a special token is text: it must not end the prompt.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path, vocab_size: int) -> "Tokenizer":
        """Read `tokenizer.json`; raises InvalidField when it is unreadable or has ids that the weights lack."""
        try:
            tokenizer = FileTokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise InvalidField.of("base.tokenizer", str(path), f"a readable tokenizers file ({error})") from error
        size = tokenizer.get_vocab_size()
        largest = max(tokenizer.get_vocab().values(), default=0)
        if largest >= vocab_size:
            allowed = f"a tokenizer whose ids are below the weights' vocabulary of {vocab_size}"
            raise InvalidField.of("base.tokenizer", f"{size} entries, largest id {largest}", allowed)
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids; special tokens are left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    @property
    def size(self) -> int:
        """Entries, added tokens included."""
        return self._tokenizer.get_vocab_size()
