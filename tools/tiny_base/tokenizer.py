"""Makes the tokenizer of moontune-tiny: byte-level BPE, so that any text can be written and read back.

Every word of the drawn world is one token. Ids 0..15 are special and have Moondream's meaning where it has one.
"""

from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.tiny_base import vocabulary

SPECIALS = (
    "<|endoftext|>", "<|user|>", "<|separator|>", "<|answer|>", "<|thinking|>", "<|coord|>", "<|size|>",
    "<|start_ground|>", "<|reserved_8|>", "<|end_ground|>", "<|query|>", "<|detect|>", "<|point|>",
    "<|caption_short|>", "<|caption_normal|>", "<|caption_long|>",
)  # fmt: skip
"""Token id -> its name. 0 begins and ends a sequence."""

SENTENCES = (
    "How many are there? What colour color is the on a an of? Which does it say? Is larger smaller than left right"
    " above below? Are there more than? Nothing. What texture background is this? What number digits is there? and at"
    " top bottom middle, none. busy noisy striped gradient plain yes no berry berries lucky largest smallest where"
    " Where Count read Read the image picture Describe red? handwritten printed defect count it? them all each one two"
)


def make_tokenizer() -> Tokenizer:
    """The tokenizer; the same one each time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus() -> Iterator[str]:
    """Each word once with a space before it, as it stands inside sentences, and the sentences."""
    nouns = ("shape", "digit", "number", "letter", "word", "text", "object", *vocabulary.SHAPES)
    plurals = (f"{noun}es" if noun == "cross" else f"{noun}s" for noun in nouns)
    words = (*nouns, *plurals, *vocabulary.COLOURS, *vocabulary.TEXTURES, *vocabulary.DIGITS, *vocabulary.LETTERS,
             *vocabulary.WORDS, *vocabulary.BACKGROUNDS)  # fmt: skip
    for word in words:
        yield f" {word}"
    yield SENTENCES
    for word in ("How", "Are", "Is", "What", "Which", "Where", "Count", "Read", "Describe", "red", "digit"):
        yield from (word, word)
