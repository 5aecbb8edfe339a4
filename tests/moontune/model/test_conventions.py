"""Upstream's conventions beside ours, on decisions worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.model.answers import read_output
from moontune.model.base_model import BaseModel
from moontune.model.codec import CoordDecoding
from moontune.model.config import GoOn
from moontune.model.conventions import OURS, UPSTREAM
from moontune.model.decisions import Input, InputKind
from moontune.model.inputs import embed_inputs
from moontune.model.moondream import Moondream
from moontune.model.moondream_family import MoondreamFamily
from moontune.model.single import generate
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box, Point
from moontune.values.output import DetectOutput, Grounding, PointOutput, QueryOutput, Reasoning
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tests.fakes.tiny_base import CONFIG, byte_tokenizer, tiny_base

TOKENIZER = Tokenizer(byte_tokenizer())
START, END, COORD = CONFIG.tokenizer.start_ground_points_id, CONFIG.tokenizer.end_ground_id, CONFIG.tokenizer.coord_id


def said(text: str) -> list[Decision]:
    return [Decision(Head.TOKEN, token, 0.0) for token in TOKENIZER.encode(text)]


def at(x: int, y: int) -> list[Decision]:
    """A place inside reasoning: each bin behind its marker."""
    return [
        decision
        for head, index in ((Head.X, x), (Head.Y, y))
        for decision in (Decision(Head.TOKEN, COORD, 0.0), Decision(head, index, 0.0))
    ]


def test_points_and_boxes() -> None:
    place = [Decision(Head.GO, 1, 0.0), Decision(Head.X, 1023, 0.0), Decision(Head.Y, 512, 0.0)]
    assert read_output(Skill.POINT, place, CONFIG, TOKENIZER) == PointOutput((Point(1.0, 512 / 1023),))
    upstream = read_output(Skill.POINT, place, CONFIG, TOKENIZER, conventions=UPSTREAM)
    assert upstream == PointOutput((Point(1023 / 1024, 0.5),))
    size = [Decision(Head.WIDTH, 1023, 0.0), Decision(Head.HEIGHT, 1023, 0.0)]  # both 1
    assert read_output(Skill.DETECT, [*place, *size], CONFIG, TOKENIZER) == DetectOutput(
        (Box(0.5, pytest.approx(512 / 1023 - 0.5), 1.0, 1.0),)
    )
    assert read_output(Skill.DETECT, [*place, *size], CONFIG, TOKENIZER, conventions=UPSTREAM) == DetectOutput(
        (Box(1023 / 1024 - 0.5, 0.0, 1023 / 1024 + 0.5, 1.0),)
    )


def test_the_space_before_an_answer() -> None:
    assert read_output(Skill.QUERY, said(" two "), CONFIG, TOKENIZER) == QueryOutput("two")
    assert read_output(Skill.QUERY, said(" two "), CONFIG, TOKENIZER, conventions=UPSTREAM) == QueryOutput(" two ")


def test_grounded_reasoning_has_spans_with_their_points() -> None:
    marker = [Decision(Head.TOKEN, START, 0.0)], [Decision(Head.TOKEN, END, 0.0)]
    thoughts = [
        *said("see "), *marker[0], *said("a cat"), *at(0, 1023), *marker[1], *said(" and "),
        *marker[0], *said("dogs"), *at(512, 256), *at(768, 128), *marker[1], *said("!"),
    ]  # fmt: skip
    output = read_output(
        Skill.QUERY,
        [*thoughts, Decision(Head.TOKEN, 3, 0.0), *said("three")],
        CONFIG,
        TOKENIZER,
        reasoning=True,
        thinking_count=len(thoughts),
        conventions=replace(OURS, decoding=CoordDecoding.UPSTREAM),
    )
    assert output == QueryOutput(
        "three",
        Reasoning(
            "see a cat and dogs!",
            (
                Grounding(4, 9, (Point(0.0, 1023 / 1024),)),
                Grounding(14, 18, (Point(0.5, 0.25), Point(0.75, 0.125))),
            ),
        ),
    )


def test_what_is_fed_back_follows_the_convention(tmp_path: Path) -> None:
    model = tiny_base(tmp_path).module
    fed = embed_inputs(model, [Input(InputKind.COORD, 512)], CoordDecoding.UPSTREAM)
    torch.testing.assert_close(fed, model.embed_coords(torch.tensor([0.5])))
    assert (fed - embed_inputs(model, [Input(InputKind.COORD, 512)])).abs().max() > 0


def test_going_on_by_any_token_is_the_argmax_rule_of_the_whole_vocabulary(base: BaseModel) -> None:
    hidden = torch.randn(300, CONFIG.text.dim, generator=torch.Generator().manual_seed(0))
    module: Moondream = base.module
    with torch.no_grad():
        hidden += module.text.lm_head.weight[CONFIG.tokenizer.eos_id] * 3  # so that end of text often leads
        tokens, any_token = module.token_logits(hidden), module.go_logits(hidden, GoOn.ANY_TOKEN)
    assert torch.equal(any_token.argmax(-1) == 0, tokens.argmax(-1) == CONFIG.tokenizer.eos_id)
    assert 0 < int((any_token.argmax(-1) == 0).sum()) < 300


def test_limits_cut_and_say_so(base: BaseModel) -> None:
    family = MoondreamFamily(base.module, base.tokenizer)
    request = SkillRequest(Skill.QUERY, question="x", settings=SamplingSettings(temperature=0.0, max_tokens=2))
    seen: list[Decision] = []
    made = generate(family, request, on_decision=seen.append)
    assert made.decisions == tuple(seen)
    if made.finish_reason is FinishReason.LENGTH:
        assert len(made.decisions) == 2
    long = replace(request, settings=SamplingSettings(temperature=1.0, max_tokens=2048))
    lengths = [len(generate(family, long, seed=seed).decisions) for seed in range(3)]
    assert max(lengths) <= family.max_context - 1
