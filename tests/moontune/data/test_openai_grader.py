"""Each kind of OpenAI grader as our reward, and everything that cannot be carried said in words."""

import json

import pytest

from moontune.data.openai_grader import import_grader, read_formula
from moontune.errors import InvalidField
from moontune.values.reward import RewardComponent
from moontune.values.reward_definition import JudgeReward, UserCode

OUTPUT, LABEL = "{{ sample.output_text }}", "{{item.reference_answer}}"


def imported(**grader):
    return import_grader(json.dumps({"name": "mine", **grader}))


def check(operation, reference=LABEL, **more):
    return imported(type="string_check", operation=operation, input=OUTPUT, reference=reference, **more)


def test_string_checks():
    assert check("eq").spec.components == (RewardComponent("exact_match"),)
    assert check("like").spec.components == (RewardComponent("contains", parameters={"max_extra_words": 1000.0}),)
    (fixed,) = check("eq", "a.b").spec.components
    assert fixed.parameters == {"pattern": r"a\.b", "whole": True, "ignore_case": False}
    assert check("ilike", "x").spec.components[0].parameters["ignore_case"] is True
    for bad, why in (("ne", "'ne' is not carried"), ("eq", "mixes text and templates")):
        with pytest.raises(InvalidField, match=why):
            check(bad, LABEL if bad == "ne" else f"is {LABEL}")
    with pytest.raises(InvalidField, match="alone"):
        imported(type="string_check", operation="eq", input="{{sample.output_json.x}}", reference=LABEL)


def test_text_similarity():
    grader = {"type": "text_similarity", "input": OUTPUT, "reference": LABEL}
    fuzzy = imported(**grader, evaluation_metric="fuzzy_match", pass_threshold=0.8)
    assert fuzzy.spec.components == (RewardComponent("edit_similarity"),)
    assert any("pass_threshold" in note for note in fuzzy.notes)
    assert imported(**grader, evaluation_metric="rouge_1").spec.components == (RewardComponent("token_f1"),)
    with pytest.raises(InvalidField, match="'cosine' is not carried"):
        imported(**grader, evaluation_metric="cosine")


def test_a_score_model_becomes_a_judge():
    messages = [
        {"role": "system", "content": "Score 0 to 1."},
        {"role": "user", "content": "Q: {{item.question}} A: {{sample.output_text}} right: {{item.answer}}"},
        {"role": "user", "content": {"type": "input_image", "image_url": "x"}},
    ]
    done = imported(type="score_model", model="judge-1", input=messages, range=[1, 5], sampling_params={"seed": 1})
    (definition,) = done.definitions
    assert isinstance(definition.source, JudgeReward)
    assert definition.source.rubric == "Score 0 to 1.\n\nQ: {question} A: {answer} right: {ground_truth}"
    assert done.spec.components == (RewardComponent("mine"),)
    for part in ("not text", "range [1, 5]", "sampling_params", "endpoint"):
        assert any(part in note for note in done.notes), part


def test_python_runs_under_our_interface():
    source = "def grade(sample, item):\n    return float(sample['output_text'] == item['anything'])\n"
    (definition,) = imported(type="python", source=source, image_tag="2025-05-08").definitions
    assert isinstance(definition.source, UserCode)
    space: dict[str, object] = {}
    exec(definition.source.source, space)
    sample = {"output": {"answer": "cat"}, "ground_truth": {"answers": ["cat", "kitten"]}, "request": {"question": "?"}}
    assert space["score"](sample) == 1.0
    assert space["score"]({**sample, "output": {"answer": "dog"}}) == 0.0
    with pytest.raises(InvalidField, match="no function grade"):
        imported(type="python", source="x = 1")
    with pytest.raises(InvalidField, match="Python that parses"):
        imported(type="python", source="def grade(:")


@pytest.mark.parametrize(
    ("formula", "weights", "gates"),
    [
        ("a", {"a": 1.0}, set()),
        ("0.8 * a + b * 0.2", {"a": 0.8, "b": 0.2}, set()),
        ("(a + b) / 2", {"a": 0.5, "b": 0.5}, set()),
        ("c * (a + 3 * b)", {"a": 1.0, "b": 3.0}, {"c"}),
        ("a * b", {"a": 1.0}, {"b"}),
    ],
)
def test_formulas(formula, weights, gates):
    assert read_formula(formula, {"a", "b", "c"}) == (pytest.approx(weights), gates)


@pytest.mark.parametrize(
    "formula", ["min(a, b)", "a - b", "-1 * a", "__import__('os')", "a ** 2", "x", "a +", "(" * 500]
)
def test_formulas_that_are_no_weighted_sum_are_refused(formula):
    with pytest.raises(InvalidField, match="calculate_output"):
        read_formula(formula, {"a", "b"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "nothing"}', "[" * 100_000, '{"type": "multi"}', "null"])
def test_what_is_no_grader_is_refused(text):
    with pytest.raises(InvalidField):
        import_grader(text)
