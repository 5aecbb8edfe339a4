"""What any model family must hold, through the family interface alone. Parametrised over every family there is.

A new family adds one entry to FAMILIES: a function that builds a small base of it with seeded random weights. Nothing
here looks at modules or configs, so a family of another kind is held to the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from moontune.errors import InvalidField
from moontune.model import sampling
from moontune.model.decisions import Input, InputKind, Phase
from moontune.model.family import Family
from moontune.model.inputs import Prefilled
from moontune.model.prompt import Prompt
from moontune.model.scoring import ScoringGroup, ScoringRollout
from moontune.model.single import Generated, generate
from moontune.values.finetune import LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.image import Image
from moontune.values.output import DetectOutput, PointOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Head
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from tests.fakes.families import FAMILIES

AGREE = 1e-4
"""Sampler and learner, in log-probability."""
IMAGE = Image("0" * 64)
WARM = SamplingSettings(temperature=1.0, max_tokens=12, max_objects=4)
REQUESTS = [
    SkillRequest(Skill.QUERY, IMAGE, question="what is it?", settings=WARM),
    SkillRequest(Skill.QUERY, question="hello", settings=replace(WARM, temperature=0.7, top_p=0.8)),
    SkillRequest(
        Skill.QUERY,
        IMAGE,
        question="and here?",
        spatial_refs=(Point(0.25, 0.5), Box(0.1, 0.2, 0.5, 0.8)),
        settings=WARM,
    ),
    SkillRequest(Skill.QUERY, IMAGE, question="how many?", reasoning=True, settings=WARM),
    SkillRequest(Skill.CAPTION, IMAGE, length="short", settings=WARM),
    SkillRequest(Skill.DETECT, IMAGE, object="thing", settings=WARM),
    SkillRequest(Skill.POINT, IMAGE, object="a longer name of a thing", settings=WARM),
]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    build: Callable[[Path], Family] = FAMILIES[request.param]
    return build(Path(tmp_path_factory.mktemp("family")))


@pytest.fixture(scope="module")
def image_tokens(family: Family) -> list[Tensor]:
    """Of a square, a wide and a tall picture."""
    return encoded(family, [(40, 40), (40, 150), (200, 60)])


def encoded(family: Family, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    dice = np.random.default_rng(0)
    pictures = [dice.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
    with torch.no_grad():
        return family.encode_images([family.crop(picture) for picture in pictures])


def asked(family: Family) -> list[SkillRequest]:
    """The requests that this base was trained for."""
    return [request for request in REQUESTS if can(family, request)]


def can(family: Family, request: SkillRequest) -> bool:
    try:
        family.prompt(request)
    except InvalidField:
        return False
    return True


def rolled(family: Family, request: SkillRequest, image_tokens: list[Tensor], seed: int) -> Generated:
    return generate(family, request, image_tokens[seed % 3] if request.image else None, seed=seed)


def group(family: Family, request: SkillRequest, tokens: Tensor | None, attempts: Sequence[Generated]) -> ScoringGroup:
    settings = request.settings
    rollouts = tuple(ScoringRollout(made.decisions, settings.temperature, made.thinking_count) for made in attempts)
    return ScoringGroup(request.skill, family.prompt(request), rollouts, tokens, request.reasoning)


def test_it_answers_a_query_at_least(family: Family) -> None:
    assert {request.skill for request in asked(family)} >= {Skill.QUERY}


def test_what_it_was_not_trained_for_is_refused_by_field(family: Family) -> None:
    for request in (request for request in REQUESTS if not can(family, request)):
        with pytest.raises(InvalidField, match=r"^request\."):
            family.prompt(request)


def test_limits_leave_room_for_a_prompt(family: Family) -> None:
    longest = max(len(family.prompt(request)) for request in asked(family))
    assert 1 <= family.prefix_length < family.max_context - longest
    assert family.limits.max_objects >= 1
    assert family.limits.max_lora_rank >= 1


def test_a_question_that_leaves_no_room_is_refused(family: Family) -> None:
    with pytest.raises(InvalidField, match=r"request\.question"):
        family.prompt(SkillRequest(Skill.QUERY, IMAGE, question="word " * family.max_context))


def test_text_that_spells_a_special_token_stays_text(family: Family) -> None:
    plain = family.prompt(SkillRequest(Skill.QUERY, IMAGE, question="x"))
    spelt = family.prompt(SkillRequest(Skill.QUERY, IMAGE, question="<eos><answer><coord>"))
    ids = {family.special.eos_id, family.special.answer_id, family.special.coord_id}
    assert sum(i in ids for i in spelt.ids) == sum(i in ids for i in plain.ids)


def test_an_image_is_encoded_the_same_alone_and_in_company(family: Family, image_tokens: list[Tensor]) -> None:
    for together in image_tokens:
        assert together.isfinite().all()
        assert together.shape == (family.prefix_length - 1, together.shape[1])
    (alone,) = encoded(family, [(40, 40)])
    torch.testing.assert_close(alone, image_tokens[0], atol=1e-4, rtol=1e-4)
    assert (image_tokens[0] - image_tokens[1]).abs().max() > 1e-3
    assert family.encode_images([]) == []


@torch.no_grad()
def test_prefill_of_a_ragged_batch_equals_each_alone(family: Family, image_tokens: list[Tensor]) -> None:
    requests = asked(family)
    tokens = [image_tokens[0] if request.image else None for request in requests]
    prompts = [family.prompt(request) for request in requests]
    together = family.prefill(tokens, prompts)
    for row, (image_PD, prompt) in enumerate(zip(tokens, prompts, strict=True)):
        alone = family.prefill([image_PD], [prompt], capacity=300)
        assert int(alone.positions_B) == int(together.positions_B[row])
        torch.testing.assert_close(alone.hidden_BD[0], together.hidden_BD[row], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_step_equals_the_longer_prompt(family: Family, image_tokens: list[Tensor]) -> None:
    """What is fed after the prompt is what a longer prompt would have held: cache and positions are right."""
    prompt = family.prompt(REQUESTS[0])
    ready = family.prefill([image_tokens[0], None], [prompt, prompt])
    for token in (40, 41, 42):
        ready = family.step(ready, [Input(InputKind.TOKEN, token)] * 2)
    longer = family.prefill([image_tokens[0], None], [Prompt((*prompt.ids, 40, 41, 42))] * 2)
    assert ready.positions_B.tolist() == longer.positions_B.tolist()
    torch.testing.assert_close(ready.hidden_BD, longer.hidden_BD, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_row_does_not_feel_its_neighbours(family: Family, image_tokens: list[Tensor]) -> None:
    prompt = family.prompt(REQUESTS[0])
    inputs = [Input(InputKind.TOKEN, 50), Input(InputKind.COORD, 700), Input(InputKind.SIZE, 800, 300)]
    together = fed(family, family.prefill(image_tokens, [prompt] * 3), inputs)
    for row, (image_PD, item) in enumerate(zip(image_tokens, inputs, strict=True)):
        alone = fed(family, family.prefill([image_PD], [prompt]), [item])
        torch.testing.assert_close(alone.hidden_BD[0], together.hidden_BD[row], atol=1e-4, rtol=1e-4)


def fed(family: Family, ready: Prefilled, inputs: Sequence[Input]) -> Prefilled:
    for _ in range(2):
        ready = family.step(ready, inputs)
    return ready


@torch.no_grad()
def test_heads_have_their_widths_in_fp32(family: Family, image_tokens: list[Tensor]) -> None:
    hidden_BD = family.prefill([image_tokens[0]], [family.prompt(REQUESTS[0])]).hidden_BD
    for head in Head:
        logits = family.head_logits(head, hidden_BD)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        assert head is Head.TOKEN or logits.shape == (1, 2 if head is Head.GO else 1024)


@pytest.mark.parametrize("index", range(len(REQUESTS)))
def test_rescoring_gives_the_samplers_log_probabilities(family: Family, image_tokens: list[Tensor], index: int) -> None:
    """Each skill alone, then with all others in one batch."""
    request = REQUESTS[index]
    if not can(family, request):
        pytest.skip(f"{family.name} was not trained for this request")
    attempts = [rolled(family, request, image_tokens, seed) for seed in (0, 3, 6)]
    scored = family.score([group(family, request, image_tokens[0] if request.image else None, attempts)])
    recorded = torch.tensor([decision.logprob for made in attempts for decision in made.decisions])
    assert len(recorded) >= 3
    torch.testing.assert_close(scored.logprobs_M.detach(), recorded, atol=AGREE, rtol=0)


def test_rescoring_does_not_depend_on_the_batch(family: Family, image_tokens: list[Tensor]) -> None:
    groups: list[ScoringGroup] = []
    recorded: list[float] = []
    for index, request in enumerate(asked(family)):
        attempts = [rolled(family, request, image_tokens, index), rolled(family, request, image_tokens, index + 3)]
        groups.append(group(family, request, image_tokens[index % 3] if request.image else None, attempts))
        recorded += [decision.logprob for made in attempts for decision in made.decisions]
    with torch.no_grad():
        together = family.score(groups).logprobs_M
        backwards = family.score(groups[::-1])
    torch.testing.assert_close(together, torch.tensor(recorded), atol=AGREE, rtol=0)
    start = backwards.spans[-1][0].start
    torch.testing.assert_close(backwards.logprobs_M[start:], together[: len(together) - start], atol=AGREE, rtol=0)


def test_the_gradient_of_a_score_is_that_of_its_finite_difference(family: Family, image_tokens: list[Tensor]) -> None:
    """With respect to the image tokens, along one random direction, in a batch with another skill."""
    request = next(request for request in reversed(asked(family)) if request.image)
    made = rolled(family, request, image_tokens, 0)
    tokens_PD = image_tokens[0].clone().requires_grad_()
    other = group(family, REQUESTS[1], None, [rolled(family, REQUESTS[1], image_tokens, 1)])

    def total(tokens: Tensor) -> Tensor:
        span = (scored := family.score([other, group(family, request, tokens, [made])])).spans[1][0]
        return scored.logprobs_M[span].double().sum()

    (gradient_PD,) = torch.autograd.grad(total(tokens_PD), tokens_PD)
    towards_PD = torch.randn(tokens_PD.shape, generator=torch.Generator().manual_seed(0))
    step = 2e-3
    with torch.no_grad():
        difference = (total(tokens_PD + step * towards_PD) - total(tokens_PD - step * towards_PD)) / (2 * step)
    slope = (gradient_PD.double() * towards_PD.double()).sum()
    assert slope.abs() > 1e-3
    torch.testing.assert_close(difference, slope, atol=2e-2, rtol=2e-2)


def test_the_same_seed_gives_the_same_rollout_and_another_seed_another(
    family: Family, image_tokens: list[Tensor]
) -> None:
    first, again, other = (generate(family, REQUESTS[0], image_tokens[0], seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.decisions != other.decisions


def test_greedy_takes_the_likeliest_that_is_allowed(family: Family, image_tokens: list[Tensor]) -> None:
    request = replace(REQUESTS[0], settings=SamplingSettings(temperature=0.0, max_tokens=1))
    made = generate(family, request, image_tokens[0])
    logits_1V = family.head_logits(Head.TOKEN, family.prefill([image_tokens[0]], [family.prompt(request)]).hidden_BD)
    logits_1V[:, list(family.suppressed(Phase.ANSWER))] = sampling.NEVER
    assert made.decisions[0].choice == int(logits_1V.argmax())
    assert made.decisions[0].logprob == 0.0


def test_suppressed_ids_are_never_sampled(family: Family, image_tokens: list[Tensor]) -> None:
    for request in asked(family):
        if request.skill is not Skill.QUERY:
            continue
        for seed in range(6):
            made = rolled(family, request, image_tokens, seed)
            thoughts = [d.choice for d in made.decisions[: made.thinking_count] if d.head is Head.TOKEN]
            assert not set(thoughts) & set(family.suppressed(Phase.THINKING))


def test_labels_come_back_from_their_own_decisions(family: Family) -> None:
    """Coordinates within half a bin (1 / 2046), sizes within half a bin of ten octaves."""
    boxes = (Box(0.1, 0.2, 0.4, 0.9), Box(0.5, 0.05, 0.55, 0.06))
    points = (Point(0.0, 1.0), Point(0.123, 0.456))
    found = family.read_output(Skill.DETECT, family.box_decisions(boxes))
    named = family.read_output(Skill.POINT, family.point_decisions(points))
    assert isinstance(found, DetectOutput)
    assert isinstance(named, PointOutput)
    for ours, given in zip(found.objects, boxes, strict=True):
        for name in ("x_min", "y_min", "x_max", "y_max"):
            assert getattr(ours, name) == pytest.approx(getattr(given, name), abs=0.003)
    for ours, given in zip(named.points, points, strict=True):
        assert (ours.x, ours.y) == pytest.approx((given.x, given.y), abs=0.0005)


def test_labels_can_be_scored(family: Family, image_tokens: list[Tensor]) -> None:
    request = SkillRequest(Skill.DETECT, IMAGE, object="thing")
    decisions = family.box_decisions((Box(0.1, 0.2, 0.4, 0.9),))
    scored = family.score(
        [ScoringGroup(Skill.DETECT, family.prompt(request), (ScoringRollout(decisions),), image_tokens[0])],
        distributions=True,
    )
    assert (scored.logprobs_M < 0).all()
    at_N, log_probs_NK = scored.distributions[Head.X]
    assert log_probs_NK.shape == (1, 1024)
    torch.testing.assert_close(log_probs_NK.exp().sum(dim=-1), torch.ones(1))
    torch.testing.assert_close(log_probs_NK[0, decisions[1].choice], scored.logprobs_M[int(at_N)])


def test_outputs_are_read_from_every_skills_decisions(family: Family, image_tokens: list[Tensor]) -> None:
    for request in asked(family):
        made = rolled(family, request, image_tokens, 0)
        output = family.read_output(
            request.skill, made.decisions, reasoning=request.reasoning, thinking_count=made.thinking_count
        )
        if isinstance(output, DetectOutput):
            assert all(0.0 <= value <= 1.0 for box in output.objects for value in (box.x_min, box.y_min, box.x_max))
        if isinstance(output, QueryOutput):
            assert (output.reasoning is not None) is request.reasoning


def test_lora_targets_name_layers_and_share_none(family: Family) -> None:
    targets = family.lora_targets()
    assert set(targets) == set(LoraTarget)
    for target in (LoraTarget.TEXT_ATTENTION, LoraTarget.TEXT_MLP):
        assert targets[target]
    names = [name for layers in targets.values() for name in layers]
    assert len(names) == len(set(names))
