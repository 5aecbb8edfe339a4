"""Which tokenizer file belongs to which weights."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as FileTokenizer

from moontune.errors import InvalidField
from moontune.model.config import Vocabulary
from moontune.model.presets import GPT2_TOKENIZER, MOONDREAM2, MOONDREAM2_05B, MOONDREAM2_GPT2, MOONDREAM3, PRESETS
from moontune.model.prompt import build_prompt
from moontune.model.tokenizer import Tokenizer, vocabulary_of
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.skill import Skill
from tests.fakes.tiny_base import byte_tokenizer


def sized(entries: int, extra: dict[str, int] | None = None) -> FileTokenizer:
    """A vocabulary of this many entries `w0`, `w1`, ...; `extra` renames some."""
    names = {index: f"w{index}" for index in range(entries)} | {i: name for name, i in (extra or {}).items()}
    return FileTokenizer(models.WordLevel({name: index for index, name in names.items()}, unk_token="w0"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    gpt2 = sized(50_257, {"<|endoftext|>": 50_256})
    phi = sized(50_257, {"<|endoftext|>": 50_256})  # GPT-2's with runs of spaces added, as Phi has it
    phi.add_tokens([AddedToken(" " * count) for count in range(31, 1, -1)])
    kinds = {"gpt2": gpt2, "phi": phi, "moondream": sized(51_200), "bytes": byte_tokenizer(), "huge": sized(60_000)}
    for name, tokenizer in kinds.items():
        tokenizer.save(str(folder / f"{name}.json"))
    return {name: folder / f"{name}.json" for name in kinds}


def test_files_are_recognised_by_what_is_in_them(files: dict[str, Path]) -> None:
    found = {name: vocabulary_of(FileTokenizer.from_file(str(path))) for name, path in files.items()}
    assert found == {
        "gpt2": Vocabulary.GPT2,
        "phi": Vocabulary.GPT2,
        "moondream": Vocabulary.MOONDREAM,
        "bytes": Vocabulary.ANY,
        "huge": Vocabulary.MOONDREAM,
    }


@pytest.mark.parametrize(
    ("name", "vocabulary", "complaint"),
    [
        ("gpt2", Vocabulary.MOONDREAM, r"50257 entries, which looks like GPT-2's.*starmie-v1.*is stale"),
        ("phi", Vocabulary.MOONDREAM, r"50287 entries, which looks like GPT-2's.*starmie-v1.*is stale"),
        ("moondream", Vocabulary.GPT2, r"51200 entries, which looks like Moondream's.*GPT-2's tokenizer.json"),
        ("bytes", Vocabulary.GPT2, r"266 entries, which is neither"),
        ("huge", Vocabulary.MOONDREAM, r"60000 entries, largest id 59999.*vocabulary of 51200"),
    ],
)
def test_a_file_of_other_weights_is_refused(
    files: dict[str, Path], name: str, vocabulary: Vocabulary, complaint: str
) -> None:
    with pytest.raises(InvalidField, match=complaint):
        Tokenizer.from_file(files[name], 51_200, vocabulary)


def test_the_right_files_load(files: dict[str, Path]) -> None:
    assert Tokenizer.from_file(files["gpt2"], 51_200, Vocabulary.GPT2).size == 50_257
    assert Tokenizer.from_file(files["moondream"], 51_200, Vocabulary.MOONDREAM).size == 51_200
    assert Tokenizer.from_file(files["bytes"], 266).size == 266


def test_each_preset_names_its_vocabulary() -> None:
    assert {name: preset.tokenizer.vocabulary for name, preset in PRESETS.items()} == {
        "moondream2": Vocabulary.MOONDREAM,
        "moondream2-gpt2": Vocabulary.GPT2,
        "moondream2-0.5b": Vocabulary.GPT2,
        "moondream3-preview": Vocabulary.MOONDREAM,
    }
    for preset in PRESETS.values():
        assert type(preset).from_json(preset.to_json()) == preset


class _Words:
    """Stands in for a tokenizer: records what it was given."""

    def encode(self, text: str) -> list[int]:
        self.text = text
        return [7000]


@pytest.mark.parametrize(
    ("preset", "request_", "text", "ids"),
    [
        (MOONDREAM2, SkillRequest(Skill.QUERY, question="why?"), "why?", (1, 15381, 2, 7000, 3, 3)),
        (MOONDREAM2, SkillRequest(Skill.QUERY, question="why?", reasoning=True), "why?", (1, 15381, 2, 7000, 3, 4)),
        (MOONDREAM3, SkillRequest(Skill.QUERY, question="why?"), "why?", (1, 15381, 2, 7000, 3)),
        (MOONDREAM3, SkillRequest(Skill.QUERY, question="why?", reasoning=True), "why?", (1, 15381, 2, 7000, 4)),
        (MOONDREAM3, SkillRequest(Skill.DETECT, Image("0" * 64), object="cat"), " cat", (1, 7235, 476, 2, 7000, 3)),
        (
            MOONDREAM2_GPT2,
            SkillRequest(Skill.QUERY, question="why?"),
            " why?",
            (198, 198, 24361, 25, 7000, 198, 198, 33706, 25),
        ),
        (
            MOONDREAM2_05B,
            SkillRequest(Skill.POINT, Image("0" * 64), object="cat"),
            " cat",
            (198, 198, 12727, 25, 7000, 628),
        ),
    ],
)
def test_prompts_are_those_of_the_vocabulary(
    preset: object, request_: SkillRequest, text: str, ids: tuple[int, ...]
) -> None:
    words = _Words()
    assert build_prompt(request_, preset, words).ids == ids  # pyright: ignore[reportArgumentType]
    assert words.text == text


def test_what_older_weights_cannot_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"request\.reasoning.*was not trained to reason"):
        build_prompt(SkillRequest(Skill.QUERY, question="x", reasoning=True), MOONDREAM2_GPT2, _Words())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidField, match="has no captions"):
        build_prompt(SkillRequest(Skill.CAPTION, Image("0" * 64), length="long"), MOONDREAM2_05B, _Words())  # pyright: ignore[reportArgumentType]
    stand_ins = {GPT2_TOKENIZER.answer_id, GPT2_TOKENIZER.coord_id, GPT2_TOKENIZER.size_id}
    assert min(stand_ins) > 50_300, "ids that GPT-2's tokenizer never makes"
