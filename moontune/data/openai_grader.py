"""OpenAI grader JSON as our rewards: string_check, text_similarity, score_model, python and multi.

A grader compares `{{sample.output_text}}` with an item's field or with fixed text. Here the item's field is the
sample's ground truth (its answers), so its name does not matter. What has no equal here, or only a near one, is listed
in words: nothing is dropped in silence.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from moontune.errors import InvalidField
from moontune.values.reward import Parameter, RewardComponent, RewardSpec
from moontune.values.reward_definition import CodeLanguage, JudgeReward, RewardDefinition, UserCode
from moontune.values.skill import Skill

MAX_BYTES = 512 * 1024
MAX_GRADERS = 16
TYPES = ("string_check", "text_similarity", "score_model", "python", "multi")
OUTPUT = re.compile(r"\{\{\s*sample\.output_text\s*\}\}")
FIELD = re.compile(r"\{\{\s*item\.[\w.\[\]'\"]+\s*\}\}")
_QUESTION = re.compile(r"\{\{\s*item\.(?:question|prompt|input)\s*\}\}")
_ANY = re.compile(r"\{\{[^{}]*\}\}")
Grader = Mapping[str, object]

PYTHON_SHIM = '''

class _Item(dict):
    """Every field of the item but its question is the first right answer."""

    def __missing__(self, name):
        return self["reference"]

    def get(self, name, default=None):
        return self[name]


def score(sample):
    output, truth = sample["output"], sample.get("ground_truth") or {}
    text = output.get("answer", output.get("caption", ""))
    question = (sample.get("request") or {}).get("question", "")
    item = _Item(question=question, prompt=question, reference=(truth.get("answers") or [""])[0])
    return float(grade({"output_text": text, "choices": [{"message": {"content": text}}]}, item))
'''


@dataclass(frozen=True, slots=True)
class ImportedGrader:
    """A grader in our words.

    spec: the composite. definitions: rewards that it names and that are to be registered first.
    notes: what could not be carried, or means something a little different.
    """

    spec: RewardSpec
    definitions: tuple[RewardDefinition, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Import:
    """What has been read so far."""

    definitions: list[RewardDefinition] = field(default_factory=list[RewardDefinition])
    notes: list[str] = field(default_factory=list[str])

    def note(self, name: str, what: str) -> None:
        self.notes.append(f"{name}: {what}")


def import_grader(text: str) -> ImportedGrader:
    """Read a grader's JSON (or a fine-tuning job's object with a `grader` in it).

    Raises InvalidField for what is no grader, and where nothing of it can be carried, with the reasons.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidField.of("grader", f"{len(text)} characters", f"at most {MAX_BYTES} bytes")
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidField.of("grader", text[:40], f"JSON ({error})") from error
    grader = _mapping(document, "grader")
    grader = _mapping(grader["grader"], "grader") if "grader" in grader and "type" not in grader else grader
    done = _Import()
    components = _multi(grader, done) if grader.get("type") == "multi" else _listed(_single("grader", grader, done))
    if not any(not component.gate for component in components):
        raise InvalidField.of("grader", _text(grader, "type"), "; ".join(done.notes) or "a grader that can be carried")
    return ImportedGrader(RewardSpec(tuple(components)), tuple(done.definitions), tuple(done.notes))


def _single(key: str, grader: Grader, done: _Import) -> RewardComponent | None:
    """One grader that is not a multi; None where it cannot be carried."""
    name = _text(grader, "name") or key
    match grader.get("type"):
        case "string_check":
            return _string_check(name, grader, done)
        case "text_similarity":
            return _text_similarity(name, grader, done)
        case "score_model":
            return _score_model(name, grader, done)
        case "python":
            return _python(name, grader, done)
        case "label_model":
            done.note(name, "label_model has no equal; write its labels into a judge's rubric")
        case "multi":
            done.note(name, "a multi inside a multi is not carried; flatten it")
        case other:
            raise InvalidField.of(f"{key}.type", other, ", ".join(TYPES))
    return None


def _string_check(name: str, grader: Grader, done: _Import) -> RewardComponent | None:
    operation, reference = _text(grader, "operation"), _text(grader, "reference")
    if not _reads_output(name, grader, done):
        return None
    if operation not in ("eq", "like", "ilike"):
        done.note(name, f"operation {operation!r} is not carried; allowed: eq, like, ilike")
        return None
    if FIELD.fullmatch(reference.strip()):
        if operation == "eq":
            done.note(name, "eq is case-sensitive; exact_match normalises case, punctuation, articles and spaces")
            return RewardComponent("exact_match")
        done.note(name, f"{operation} looks for characters; contains looks for whole words, without case")
        return RewardComponent("contains", parameters={"max_extra_words": 1000.0})
    if _ANY.search(reference):
        done.note(name, f"reference {reference!r} mixes text and templates")
        return None
    pattern = re.escape(reference)
    parameters: dict[str, Parameter] = {"pattern": pattern, "whole": operation == "eq"}
    return RewardComponent("regex", parameters={**parameters, "ignore_case": operation == "ilike"})


def _text_similarity(name: str, grader: Grader, done: _Import) -> RewardComponent | None:
    metric = _text(grader, "evaluation_metric")
    if not _reads_output(name, grader, done):
        return None
    if not FIELD.fullmatch(_text(grader, "reference").strip()):
        done.note(name, "the reference is not a field of the item")
        return None
    if "pass_threshold" in grader:
        done.note(name, "pass_threshold is not carried: the similarity itself is the reward")
    if metric == "fuzzy_match":
        done.note(name, "fuzzy_match becomes edit_similarity: 1 - Levenshtein over the longer length")
        return RewardComponent("edit_similarity")
    if metric == "rouge_1":
        done.note(name, "rouge_1 becomes token_f1, which normalises words first")
        return RewardComponent("token_f1")
    done.note(name, f"evaluation_metric {metric!r} is not carried; allowed: fuzzy_match, rouge_1")
    return None


def _score_model(name: str, grader: Grader, done: _Import) -> RewardComponent | None:
    messages = grader.get("input")
    lines: list[str] = []
    for message in cast("list[object]", messages) if isinstance(messages, list) else [{"content": messages}]:
        content = _mapping(message, f"{name}.input").get("content")
        if isinstance(content, str):
            lines.append(content)
        else:
            done.note(name, "a message that is not text is not carried; the judge may see the image itself")
    rubric = OUTPUT.sub("{answer}", "\n\n".join(lines))
    rubric = FIELD.sub("{ground_truth}", _QUESTION.sub("{question}", rubric))
    for template in sorted(set(_ANY.findall(rubric))):
        done.note(name, f"the template {template} has no equal in a rubric")
    if grader.get("range") not in (None, [0, 1], [0.0, 1.0]):
        done.note(name, f"range {grader['range']!r}: our judge scores 0 to 1; say so in the rubric")
    for key in ("sampling_params", "pass_threshold"):
        if key in grader:
            done.note(name, f"{key} is not carried")
    done.note(name, "the judge asks our own inference service; set endpoint for another, among the allowed ones")
    judge = JudgeReward(model=_text(grader, "model"), rubric=rubric)
    return _defined(name, judge, done)


def _python(name: str, grader: Grader, done: _Import) -> RewardComponent | None:
    source = _text(grader, "source")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidField.of(f"{name}.source", source[:60], f"Python that parses ({error})") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "grade" for node in tree.body):
        done.note(name, "the source has no function grade(sample, item)")
        return None
    if "image_tag" in grader:
        done.note(name, "image_tag is not carried: the sandbox has Python's standard library and numpy")
    if "output_json" in source or "output_tools" in source:
        done.note(name, "sample has output_text and choices only, not output_json or output_tools")
    done.note(name, "item holds question, and for any other field the first right answer")
    return _defined(name, UserCode(CodeLanguage.PYTHON, source + PYTHON_SHIM), done)


def _defined(name: str, source: UserCode | JudgeReward, done: _Import) -> RewardComponent:
    taken = {definition.name for definition in done.definitions}
    plain = re.sub(r"[^a-z0-9_-]+", "_", name.casefold())[:56].strip("_") or "imported"
    plain = f"{plain}_{len(taken) + 1}" if plain in taken else plain
    description = f"imported from an OpenAI grader named {name[:60]}"
    done.definitions.append(RewardDefinition(plain, (Skill.QUERY,), source, description))
    return RewardComponent(plain)


def _multi(grader: Grader, done: _Import) -> list[RewardComponent]:
    """Components weighted (or made gates) as calculate_output says."""
    graders = _mapping(grader.get("graders"), "graders")
    if not 1 <= len(graders) <= MAX_GRADERS:
        raise InvalidField.of("graders", f"{len(graders)} graders", f"1 to {MAX_GRADERS}")
    parts = {key: _single(key, _mapping(one, f"graders.{key}"), done) for key, one in graders.items()}
    formula = _text(grader, "calculate_output") or " + ".join(graders)
    sum_of, gates = read_formula(formula, set(graders))
    components = [
        *(replace(part, weight=weight) for key, weight in sum_of.items() if (part := parts[key]) is not None),
        *(replace(part, gate=True) for key in gates if (part := parts[key]) is not None),
    ]
    for key in graders.keys() - sum_of.keys() - gates:
        done.note(key, "calculate_output does not use it")
    total = sum(sum_of.values())
    if abs(total - 1.0) > 1e-9:
        done.note("multi", f"a composite is a weighted mean: rewards are divided by {total:g}, which changes no order")
    return components


def read_formula(formula: str, names: set[str]) -> tuple[dict[str, float], set[str]]:
    """A weighted sum times gates, `(0.8 * a + 0.2 * b) * c` say, as weights by name and the gates' names.

    Raises InvalidField for anything else; the formula is parsed, never evaluated.
    """
    try:
        tree = ast.parse(formula[:2000], mode="eval").body
        gates: set[str] = set()
        while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
            if isinstance(tree.right, ast.Name) and not _is_constant(tree.left):
                gates.add(tree.right.id)
                tree = tree.left
            elif isinstance(tree.left, ast.Name) and not _is_constant(tree.right):
                gates.add(tree.left.id)
                tree = tree.right
            else:
                break
        weights = _weights(tree, 1.0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        allowed = f"a sum of graders with positive weights, times gates: 0.8 * a + 0.2 * b ({error})"
        raise InvalidField.of("calculate_output", formula, allowed) from error
    if unknown := sorted((weights.keys() | gates) - names):
        raise InvalidField.of("calculate_output", unknown, f"the graders {', '.join(sorted(names))}")
    return weights, gates


def _weights(node: ast.expr, factor: float) -> dict[str, float]:
    match node:
        case ast.Name(id=name):
            return {name: factor}
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            weights = _weights(left, factor)
            for name, weight in _weights(right, factor).items():
                weights[name] = weights.get(name, 0.0) + weight
            return weights
        case ast.BinOp(left=ast.Constant(value=float() | int() as number), op=ast.Mult(), right=inner) if number > 0:
            return _weights(inner, factor * number)
        case ast.BinOp(left=inner, op=ast.Mult(), right=ast.Constant(value=float() | int() as number)) if number > 0:
            return _weights(inner, factor * number)
        case ast.BinOp(left=inner, op=ast.Div(), right=ast.Constant(value=float() | int() as number)) if number > 0:
            return _weights(inner, factor / number)
        case _:
            raise ValueError(f"{ast.unparse(node)[:60]!r} is neither a grader nor a positive number times one")


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def _listed(component: RewardComponent | None) -> list[RewardComponent]:
    return [] if component is None else [component]


def _reads_output(name: str, grader: Grader, done: _Import) -> bool:
    if OUTPUT.fullmatch(_text(grader, "input").strip()):
        return True
    done.note(name, f"input {_text(grader, 'input')[:60]!r} is not {{{{sample.output_text}}}} alone")
    return False


def _text(grader: Grader, key: str) -> str:
    value = grader.get(key, "")
    if not isinstance(value, str):
        raise InvalidField.of(f"grader.{key}", value, "text")
    return value


def _mapping(value: object, where: str) -> Grader:
    if not isinstance(value, dict):
        raise InvalidField.of(where, value, "a JSON object")
    return cast("Grader", value)
