"""Rows: what is decided where, and that packed questions do not see each other."""

import torch

from moontune.model.moondream import Moondream
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box
from moontune.values.skill import Skill
from tools.tiny_base.architecture import tiny_config
from tools.tiny_base.initialise import initialise
from tools.tiny_base.losses import hidden_of
from tools.tiny_base.packing import NONE, pack, segment
from tools.tiny_base.questions import Question
from tools.tiny_base.tokenizer import SPECIALS, make_tokenizer
from tools.tiny_base.vocabulary import COLOURS, DIGITS, SHAPES, WORDS

FILE = make_tokenizer()
TOKENIZER = Tokenizer(make_tokenizer())
CONFIG = tiny_config(FILE.get_vocab_size(), vision_dim=32, text_dim=32, layers=(1, 2))
BOX = Box(0.2, 0.4, 0.4, 0.8)  # centre .3, .6; size .2, .4
DETECT = Question(Skill.DETECT, "", "digit", (BOX,))
QUERY = Question(Skill.QUERY, "", "How many digits are there?", answer="1", reasoning="digit 7.")


def test_words_are_one_token_and_any_text_survives():
    for word in (*COLOURS, *SHAPES, *DIGITS, *WORDS, "digit", "digits", "largest"):
        assert len(TOKENIZER.encode(f" {word}")) == 1, word
    for text in ("Ätzend 北京 🙂\n\ttab", "<|endoftext|> is text", " 1234 zebras"):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert [FILE.token_to_id(name) for name in SPECIALS] == list(range(len(SPECIALS)))
    assert make_tokenizer().to_str() == FILE.to_str()


def test_detect_decides_go_and_x_then_y_then_size_then_stop():
    made = segment(DETECT, CONFIG, TOKENIZER)
    last = len(made.ids) - 4  # the end of the prompt
    assert made.ids[:3] == [1, 11, 2]
    assert made.ids[last:] == [3, 5, 5, 6]
    assert made.go_targets == [NONE] * last + [1, NONE, NONE, 0]
    assert made.coord_targets == [NONE] * last + [round(0.3 * 1023), round(0.6 * 1023), NONE, NONE]
    # log2(.2) = -2.3219 and log2(.4) = -1.3219: (10 - 2.3219) / 10 * 1023 = 785.5 and 887.8
    assert made.size_targets[last + 2] == (785, 888)
    assert abs(made.coords[last + 1] - 0.3) < 5e-4


def test_point_has_no_sizes():
    made = segment(Question(Skill.POINT, "", "digit", (BOX, BOX)), CONFIG, TOKENIZER)
    assert made.ids[-4:] == [5, 5, 5, 5]
    assert [target for target in made.go_targets if target != NONE] == [1, 1, 0]
    assert all(target == (NONE, NONE) for target in made.size_targets)


def test_reasoned_query_thinks_then_separates_then_answers():
    made = segment(QUERY, CONFIG, TOKENIZER)
    start = made.ids.index(4)
    thought, answer = TOKENIZER.encode(" digit 7."), TOKENIZER.encode(" 1")
    assert made.token_targets[start:] == [*thought, 3, *answer, 0]
    assert made.ids[start + 1 :] == [*thought, 3, *answer]
    assert made.token_targets[:start] == [NONE] * start


def test_mask_by_hand():
    short = segment(Question(Skill.POINT, "", "digit"), CONFIG, TOKENIZER)
    rows = pack([[short, short], [short]], prefix=2)
    length = len(short.ids)
    mask = rows.mask_BSS[0]
    assert mask[:2, :2].all()
    assert not mask[:2, 2:].any()
    assert mask[2:, :2].all()
    assert torch.equal(mask[2 : 2 + length, 2 : 2 + length], torch.ones(length, length, dtype=torch.bool).tril())
    assert not mask[2 + length :, 2 : 2 + length].any()
    assert not mask[2 : 2 + length, 2 + length :].any()
    assert rows.positions_BS[0].tolist() == [0, 1, *range(2, 2 + length), *range(2, 2 + length)]
    assert not rows.mask_BSS[1, 2 + length :, 2:].any()  # padding sees the prefix alone


def test_packed_questions_give_the_hidden_states_they_have_alone():
    torch.manual_seed(0)
    model = Moondream(CONFIG)
    initialise(model, 0)
    image = torch.randn(1, CONFIG.vision.tokens, CONFIG.text.dim)
    parts = [segment(question, CONFIG, TOKENIZER) for question in (DETECT, QUERY)]
    with torch.no_grad():
        together = hidden_of(model, pack([parts], CONFIG.prefix_length), image)[0]
        alone = [hidden_of(model, pack([[part]], CONFIG.prefix_length), image)[0] for part in parts]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
