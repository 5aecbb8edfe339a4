import pytest

from moontune.errors import InvalidField
from moontune.model.answers import box_decisions, point_decisions, read_output
from moontune.model.base_model import BaseModel
from moontune.model.decisions import Input, InputKind, Phase, layout
from moontune.values.geometry import Box, Point
from moontune.values.output import CaptionOutput, DetectOutput, Grounding, PointOutput, QueryOutput, Reasoning
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill
from tests.fakes.tiny_base import CONFIG

T, C, S = InputKind.TOKEN, InputKind.COORD, InputKind.SIZE


def taken(*pairs: tuple[Head, int]) -> list[Decision]:
    return [Decision(head, choice, 0.0) for head, choice in pairs]


def tokens(*ids: int) -> list[Decision]:
    return taken(*((Head.TOKEN, token) for token in ids))


ONE_BOX = [(Head.GO, 1), (Head.X, 10), (Head.Y, 20), (Head.WIDTH, 30), (Head.HEIGHT, 40)]


def test_detect() -> None:
    laid = layout(Skill.DETECT, taken(*ONE_BOX, (Head.GO, 0)), CONFIG)
    assert laid.inputs == (Input(C, 10), Input(C, 20), Input(S, 30, 40))
    assert laid.reads == (0, 0, 1, 2, 2, 3)


def test_detect_cut_by_a_limit_feeds_nothing_after_its_last_read() -> None:
    laid = layout(Skill.DETECT, taken(*ONE_BOX), CONFIG)
    assert laid.inputs == (Input(C, 10), Input(C, 20))
    assert laid.reads == (0, 0, 1, 2, 2)


def test_nothing_there_reads_the_prompt_alone() -> None:
    laid = layout(Skill.DETECT, taken((Head.GO, 0)), CONFIG)
    assert (laid.inputs, laid.reads) == ((), (0,))


def test_point() -> None:
    laid = layout(Skill.POINT, taken((Head.GO, 1), (Head.X, 1), (Head.Y, 2), (Head.GO, 0)), CONFIG)
    assert laid.inputs == (Input(C, 1), Input(C, 2))
    assert laid.reads == (0, 0, 1, 2)


def test_query() -> None:
    laid = layout(Skill.QUERY, tokens(50, 51, 0), CONFIG)
    assert laid.inputs == (Input(T, 50), Input(T, 51))
    assert laid.reads == (0, 1, 2)
    assert set(laid.phases) == {Phase.ANSWER}


def test_reasoning_with_a_decided_separator() -> None:
    laid = layout(Skill.QUERY, tokens(50, 3, 60, 0), CONFIG, reasoning=True, thinking_count=1)
    assert laid.inputs == (Input(T, 50), Input(T, 3), Input(T, 60))
    assert laid.reads == (0, 1, 2, 3)
    assert laid.phases == (Phase.THINKING, Phase.THINKING, Phase.ANSWER, Phase.ANSWER)


def test_reasoning_with_a_forced_separator_feeds_it_without_a_decision() -> None:
    laid = layout(Skill.QUERY, tokens(50, 51, 60), CONFIG, reasoning=True, thinking_count=2)
    assert laid.inputs == (Input(T, 50), Input(T, 51), Input(T, 3))
    assert laid.reads == (0, 1, 3)


def test_reasoning_cut_before_its_end() -> None:
    laid = layout(Skill.QUERY, tokens(50, 51), CONFIG, reasoning=True, thinking_count=2)
    assert (laid.inputs, laid.reads) == ((Input(T, 50),), (0, 1))


def test_grounded_reasoning_feeds_coordinates_in_the_markers_stead() -> None:
    decisions = [*tokens(7, 50, 5), *taken((Head.X, 100)), *tokens(5), *taken((Head.Y, 200)), *tokens(9, 3, 60, 0)]
    laid = layout(Skill.QUERY, decisions, CONFIG, reasoning=True, thinking_count=7)
    assert laid.inputs == (
        Input(T, 7),
        Input(T, 50),
        Input(C, 100),
        Input(C, 200),
        Input(T, 9),
        Input(T, 3),
        Input(T, 60),
    )
    assert laid.reads == (0, 1, 2, 2, 3, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("skill", "decisions", "complaint"),
    [
        (Skill.DETECT, taken((Head.X, 1)), r"decisions\[0\]\.head is 'x'; allowed: go"),
        (Skill.POINT, taken(*ONE_BOX), r"decisions\[3\]\.head is 'width'; allowed: go"),
        (Skill.DETECT, taken(*ONE_BOX[:4]), "a height after each width"),
        (Skill.DETECT, taken((Head.GO, 0), (Head.GO, 0)), r"decisions\[1\]\.head is 'go'; allowed: nothing"),
        (Skill.DETECT, taken((Head.GO, 2)), r"decisions\[0\]\.choice is 2; allowed: 0 to 1"),
        (Skill.POINT, taken((Head.GO, 1), (Head.X, 1024)), r"decisions\[1\]\.choice is 1024; allowed: 0 to 1023"),
        (Skill.QUERY, tokens(266), r"decisions\[0\]\.choice is 266; allowed: 0 to 265"),
        (Skill.QUERY, tokens(-1), r"choice is -1"),
        (Skill.QUERY, tokens(50, 0, 50), r"decisions\[2\]\.head is 'token'; allowed: nothing"),
        (Skill.QUERY, tokens(3), r"decisions\[0\]\.choice is 3; allowed: an id"),
        (Skill.QUERY, taken((Head.GO, 1)), r"decisions\[0\]\.head is 'go'; allowed: token"),
        (Skill.QUERY, [Decision(Head.TOKEN, 50, 0.0, (51,))], r"decisions\[0\]\.nucleus"),
    ],
)
def test_what_no_policy_could_have_done_is_refused(skill: Skill, decisions: list[Decision], complaint: str) -> None:
    with pytest.raises(InvalidField, match=complaint):
        layout(skill, decisions, CONFIG)


def test_thinking_count_must_fit() -> None:
    with pytest.raises(InvalidField, match="thinking_count is 1; allowed: 0 to 0"):
        layout(Skill.QUERY, tokens(50), CONFIG, thinking_count=1)
    with pytest.raises(InvalidField, match="thinking_count is 2; allowed: 0 to 1"):
        layout(Skill.QUERY, tokens(50), CONFIG, reasoning=True, thinking_count=2)
    with pytest.raises(InvalidField, match="choice is 0"):
        layout(Skill.QUERY, tokens(0), CONFIG, reasoning=True, thinking_count=1)


def test_labels_round_trip_through_decisions(base: BaseModel) -> None:
    boxes = [Box(0.5, 0.1, 0.9, 0.3), Box(0.1, 0.2, 0.3, 0.6)]
    found = read_output(Skill.DETECT, box_decisions(boxes, base.config), base.config, base.tokenizer)
    assert isinstance(found, DetectOutput)
    for got, wanted in zip(found.objects, reversed(boxes), strict=True):
        assert (got.x_min, got.y_min, got.x_max, got.y_max) == pytest.approx(
            (wanted.x_min, wanted.y_min, wanted.x_max, wanted.y_max), abs=0.003
        )
    named = read_output(Skill.POINT, point_decisions([Point(0.25, 0.75)], base.config), base.config, base.tokenizer)
    assert named == PointOutput((Point(256 / 1023, 767 / 1023),))


def test_an_answer_begins_with_its_first_word(base: BaseModel) -> None:
    decisions = tokens(*base.tokenizer.encode(" two red cups"), 0)
    assert read_output(Skill.QUERY, decisions, base.config, base.tokenizer) == QueryOutput("two red cups")
    assert read_output(Skill.CAPTION, decisions, base.config, base.tokenizer) == CaptionOutput("two red cups")


def test_grounding_spans(base: BaseModel) -> None:
    def spell(text: str) -> list[Decision]:
        return tokens(*base.tokenizer.encode(text))

    where = [*tokens(5), *taken((Head.X, 0)), *tokens(5), *taken((Head.Y, 1023))]
    thoughts = [*spell("the "), *tokens(7), *spell("cat"), *where, *tokens(9), *spell(" sat")]
    decisions = [*thoughts, *tokens(3), *spell("ok"), *tokens(0)]
    said = read_output(
        Skill.QUERY, decisions, base.config, base.tokenizer, reasoning=True, thinking_count=len(thoughts)
    )
    assert said == QueryOutput("ok", Reasoning("the cat sat", (Grounding(4, 7, (Point(0.0, 1.0),)),)))
