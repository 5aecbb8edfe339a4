"""Held-out scores of a base by sort of question: scenes of seeds that pre-training never draws, greedy answers."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from moontune.evaluation.exact_match import is_exact_match
from moontune.evaluation.f1 import MatchCounts, detect_counts, f1, point_in_box_counts
from moontune.model.base_model import load_base
from moontune.values.skill import Skill
from tools.tiny_base.answering import Answer, Answerer
from tools.tiny_base.questions import Question, ask
from tools.tiny_base.scenes import Scene, draw_scene

FIRST_SEED = 1_000_000_000
"""Of the held-out scenes."""
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Score:
    """How one sort of question went.

    value: pooled F1 (detect at IoU 0.5, point in box) or the share of right answers (queries, absent objects), 0..1.
    n: questions. strict: detect's pooled F1 at IoU 0.75, None for the others.
    """

    value: float
    n: int
    strict: float | None = None


def score_base(folder: Path, scenes: int, seed: int = 0) -> dict[str, Score]:
    """Scores of each skill's mix (`detect`) and of each topic (`detect: any digit`), one of each skill per scene.

    Queries that can be reasoned are asked both ways. Deterministic for (scenes, seed).
    """
    base = load_base(str(folder), "cpu")
    answerer = Answerer(base.module, base.tokenizer)
    marks: dict[str, list[_Mark]] = defaultdict(list)
    for start in range(0, scenes, _BATCH):
        drawn = [draw_scene(FIRST_SEED + 100_000 * seed + index) for index in range(start, min(scenes, start + _BATCH))]
        images = answerer.encode(torch.from_numpy(np.stack([picture for picture, _ in drawn])))
        rng = np.random.default_rng([seed, start])
        rows = [(row, question) for row, (_, scene) in enumerate(drawn) for question in _one_each(scene, rng)]
        for skill_rows in _alike(rows):
            questions = [question for _, question in skill_rows]
            answers = answerer.answer(images[[row for row, _ in skill_rows]], questions)
            for question, answer in zip(questions, answers, strict=True):
                for name in _names(question):
                    marks[name].append(_mark(question, answer))
    return {name: _score(name, each) for name, each in sorted(marks.items())}


def as_table(scores: Mapping[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| question | n | score | F1@0.75 |", "| --- | --- | --- | --- |"]
    for name, score in scores.items():
        strict = "" if score.strict is None else f"{score.strict:.3f}"
        lines.append(f"| {name} | {score.n} | {score.value:.3f} | {strict} |")
    return "\n".join(lines)


def as_json(scores: Mapping[str, Score]) -> str:
    """The scores as JSON."""
    return json.dumps({name: asdict(score) for name, score in scores.items()}, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class _Mark:
    """How one answer did."""

    right: bool = False
    counts: MatchCounts | None = None
    strict: MatchCounts | None = None


def _one_each(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """A question of each skill (captions aside), and the query again with the other setting of reasoning."""
    wanted = {Skill.DETECT, Skill.POINT, Skill.QUERY}
    found: dict[Skill, Question] = {}
    while wanted - set(found):
        question = ask(scene, rng)
        found.setdefault(question.skill, question)
    query = found[Skill.QUERY]
    extra = [replace(query, reasoning=None)] if query.reasoning is not None else []
    return [found[Skill.DETECT], found[Skill.POINT], query, *extra]


def _alike(rows: Sequence[tuple[int, Question]]) -> list[list[tuple[int, Question]]]:
    """Rows by skill, and queries by whether they reason, as the answerer takes them."""
    groups: dict[tuple[Skill, bool], list[tuple[int, Question]]] = defaultdict(list)
    for row in rows:
        groups[row[1].skill, row[1].reasoning is not None].append(row)
    return list(groups.values())


def _names(question: Question) -> tuple[str, ...]:
    if question.skill is Skill.QUERY:
        how = "query, reasoned" if question.reasoning is not None else "query"
        return how, f"{how}: {question.topic}"
    if question.topic == "left open":  # has no right answer
        return (f"{question.skill}: left open",)
    return str(question.skill), f"{question.skill}: {question.topic}"


def _mark(question: Question, answer: Answer) -> _Mark:
    if question.skill is Skill.DETECT:
        return _Mark(
            counts=detect_counts(answer.boxes, question.boxes, 0.5),
            strict=detect_counts(answer.boxes, question.boxes, 0.75),
        )
    if question.skill is Skill.POINT:
        return _Mark(counts=point_in_box_counts(answer.points, question.boxes))
    return _Mark(right=is_exact_match(answer.text, [question.answer]))


def _score(name: str, marks: Sequence[_Mark]) -> Score:
    counts = [mark.counts for mark in marks if mark.counts is not None]
    if not counts:
        return Score(sum(mark.right for mark in marks) / len(marks), len(marks))
    if name.endswith(": absent"):  # F1 is 0 or undefined where nothing is to be found; right is to say so
        return Score(sum(count.predicted == 0 for count in counts) / len(counts), len(counts))
    strict = [mark.strict for mark in marks if mark.strict is not None]
    return Score(f1(counts), len(marks), f1(strict) if strict else None)
