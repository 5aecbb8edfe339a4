"""Text to token ids and back: a `tokenizers` file kept beside the weights.

Two vocabularies are in use: Moondream's own of 2025 (51,200 entries, published as moondream/starmie-v1) and GPT-2's
(50,257 and up), with which older weights and the 0.5B were trained. The tokenizer.json in the Moondream 2 hub
repository is the GPT-2 one whatever the weights beside it, so the file is recognised by what is in it.
"""

from pathlib import Path

from tokenizers import Tokenizer as FileTokenizer

from moontune.errors import InvalidField
from moontune.model.config import Vocabulary

GPT2_END = ("<|endoftext|>", 50_256)
"""The entry that only GPT-2's vocabulary has at that id."""
MOONDREAM_ENTRIES = 51_000
"""Moondream's own vocabulary has more entries than this, GPT-2's with all its additions fewer."""
_WHERE = {
    Vocabulary.MOONDREAM: "the tokenizer.json of moondream/starmie-v1; the one in the Moondream 2 repository is stale",
    Vocabulary.GPT2: "GPT-2's tokenizer.json, which the Moondream 2 repository holds",
}


class Tokenizer:
    """Encodes and decodes text; knows nothing of prompts or special ids."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        """Wrap a loaded tokenizer."""
        # A user's text that spells a special token is text: it must not end the prompt.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path, vocab_size: int, vocabulary: Vocabulary = Vocabulary.ANY) -> "Tokenizer":
        """Read `tokenizer.json` of weights with `vocab_size` rows, trained with `vocabulary`.

        Raises InvalidField when it is unreadable, has ids that the weights lack, or is another vocabulary's.
        """
        try:
            tokenizer = FileTokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise InvalidField.of("base.tokenizer", str(path), f"a readable tokenizers file ({error})") from error
        found, size = vocabulary_of(tokenizer), tokenizer.get_vocab_size()
        largest = max(tokenizer.get_vocab().values(), default=0)
        if vocabulary is not Vocabulary.ANY and found is not vocabulary:
            given = f"{path.name} with {size} entries, {_LOOKS[found]}"
            allowed = f"the tokenizer that these weights were trained with: {_WHERE[vocabulary]}"
            raise InvalidField.of("base.tokenizer", given, allowed)
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


_LOOKS = {
    Vocabulary.MOONDREAM: "which looks like Moondream's vocabulary of 2025",
    Vocabulary.GPT2: "which looks like GPT-2's",
    Vocabulary.ANY: "which is neither Moondream's nor GPT-2's",
}


def vocabulary_of(tokenizer: FileTokenizer) -> Vocabulary:
    """Which of the two published vocabularies this is; ANY when neither."""
    name, index = GPT2_END
    if tokenizer.token_to_id(name) == index:
        return Vocabulary.GPT2
    return Vocabulary.MOONDREAM if tokenizer.get_vocab_size() > MOONDREAM_ENTRIES else Vocabulary.ANY
