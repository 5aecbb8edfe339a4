"""What the sampler recorded is what the learner recomputes, however rollouts are batched and packed."""

import random
from dataclasses import replace

import pytest
import torch

from moontune.errors import InvalidField
from moontune.model import inputs, sampling
from moontune.model.base_model import BaseModel, share_base
from moontune.model.decisions import Input, InputKind, Phase
from moontune.model.lora import Adapters
from moontune.model.moondream import Moondream
from moontune.model.prompt import Prompt, build_prompt
from moontune.model.scoring import ScoringGroup, ScoringRollout, head_logits, score_groups
from moontune.values.finetune import LoraSettings, LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill

IMAGE = Image("0" * 64)
CYCLES = {
    Skill.DETECT: (Head.GO, Head.X, Head.Y, Head.WIDTH, Head.HEIGHT),
    Skill.POINT: (Head.GO, Head.X, Head.Y),
}


def image_tokens(model: Moondream, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.config.vision.tokens, model.config.text.dim, generator=generator)


def roll(
    model: Moondream,
    image_PD: torch.Tensor | None,
    prompt: Prompt,
    skill: Skill,
    *,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    thinking: int | None = None,
    most: int = 12,
) -> ScoringRollout:
    """A sampler of one rollout, with cache: a second path to the numbers, much simpler than the engine.

    thinking: reason for this many tokens at most, then the separator (forced when the policy did not choose it).
    """
    dice, special = random.Random(seed), model.config.tokenizer
    with torch.no_grad():
        ready = inputs.prefill(model, [image_PD], [prompt])
        hidden_BD, position = ready.hidden_BD, int(ready.positions_B)
        decisions: list[Decision] = []
        thoughts = marks = 0
        phase = Phase.ANSWER if thinking is None else Phase.THINKING

        def decide(head: Head) -> int:
            allowed = sampling.allowed_tokens([phase], model.config, model.device) if head is Head.TOKEN else None
            got = sampling.sample(
                head_logits(model, head, hidden_BD),
                torch.tensor([temperature]),
                torch.tensor([dice.random()], dtype=torch.float64),
                allowed,
                torch.tensor([top_p]) if head is Head.TOKEN else None,
            )
            choice = int(got.choices_N)
            decisions.append(Decision(head, choice, float(got.log_probs_N), got.nuclei[0]))
            return choice

        def feed(kind: InputKind, first: int, second: int = 0) -> None:
            nonlocal hidden_BD, position
            embeds = inputs.embed_inputs(model, [Input(kind, first, second)])[None]
            hidden_BD = model.hidden(embeds, torch.tensor([[position]]), cache=ready.cache)[:, 0]
            position += 1

        if skill is Skill.QUERY:
            while phase is Phase.THINKING:
                choice = -1
                if thoughts < (thinking or 0):
                    choice = decide(Head.TOKEN)
                if choice in (-1, special.answer_id):
                    phase = Phase.ANSWER
                    feed(InputKind.TOKEN, special.answer_id)
                elif choice == special.coord_id:
                    feed(InputKind.COORD, decide((Head.X, Head.Y)[marks % 2]))
                    thoughts, marks = thoughts + 2, marks + 1
                else:
                    feed(InputKind.TOKEN, choice)
                    thoughts += 1
            while len(decisions) < most + thoughts:
                choice = decide(Head.TOKEN)
                if choice == special.eos_id:
                    break
                feed(InputKind.TOKEN, choice)
        else:
            while len(decisions) < most and decide(Head.GO):
                for head in CYCLES[skill][1:]:
                    choice = decide(head)
                    if head in (Head.X, Head.Y):
                        feed(InputKind.COORD, choice)
                    elif head is Head.HEIGHT:
                        feed(InputKind.SIZE, decisions[-2].choice, choice)
    return ScoringRollout(tuple(decisions), temperature, min(thoughts, len(decisions)))


def mixed_groups(model: Moondream, base: BaseModel, per_group: int = 3) -> list[ScoringGroup]:
    """All skills, ragged prompts, references, text only, reasoning, several temperatures, nuclei."""
    asks = [
        (SkillRequest(Skill.DETECT, IMAGE, object="red thing"), 1.0, 1.0),
        (SkillRequest(Skill.POINT, IMAGE, object="x", spatial_refs=(Point(0.25, 0.5),)), 0.7, 1.0),
        (SkillRequest(Skill.QUERY, IMAGE, question="what?", spatial_refs=(Box(0.1, 0.2, 0.5, 0.8),)), 1.3, 0.8),
        (SkillRequest(Skill.QUERY, question="hello there, a longer prompt"), 0.5, 1.0),
        (SkillRequest(Skill.QUERY, IMAGE, question="why", reasoning=True), 1.5, 0.95),
    ]
    groups: list[ScoringGroup] = []
    for index, (request, temperature, top_p) in enumerate(asks):
        prompt = build_prompt(request, base.config, base.tokenizer)
        image = None if request.image is None else image_tokens(model, index)
        rollouts = tuple(
            roll(
                model,
                image,
                prompt,
                request.skill,
                seed=17 * index + r,
                temperature=temperature,
                top_p=top_p,
                thinking=4 if request.reasoning else None,
            )
            for r in range(per_group)
        )
        groups.append(ScoringGroup(request.skill, prompt, rollouts, image, request.reasoning))
    return groups


@pytest.fixture
def adapted(base: BaseModel) -> BaseModel:
    """With a LoRA on text and region that does something."""
    shared = share_base(base)
    adapters = Adapters(shared.module)
    targets = (LoraTarget.TEXT_ATTENTION, LoraTarget.TEXT_MLP, LoraTarget.REGION)
    adapters.attach("a", LoraSettings(rank=4, targets=targets, seed=1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapters.parameters("a").values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapters.activate("a")
    return shared


def recorded(groups: list[ScoringGroup]) -> torch.Tensor:
    return torch.tensor([d.logprob for group in groups for rollout in group.rollouts for d in rollout.decisions])


@pytest.mark.parametrize("with_adapter", [False, True])
def test_packed_scores_equal_what_the_sampler_recorded(base: BaseModel, adapted: BaseModel, with_adapter: bool) -> None:
    model = (adapted if with_adapter else base).module
    groups = mixed_groups(model, base)
    scored = score_groups(model, groups)
    assert (scored.logprobs_M - recorded(groups)).abs().max() < 2e-5
    heads = {d.head for group in groups for rollout in group.rollouts for d in rollout.decisions}
    assert heads == set(Head)


def test_the_adapter_matters(base: BaseModel, adapted: BaseModel) -> None:
    """Else the test above with it would prove nothing."""
    groups = mixed_groups(adapted.module, base)
    assert (score_groups(base.module, groups).logprobs_M - recorded(groups)).abs().max() > 0.1


@pytest.mark.parametrize("row_tokens", [1, 4096])
def test_packed_equals_one_row_for_each_rollout(adapted: BaseModel, row_tokens: int) -> None:
    model = adapted.module
    groups = mixed_groups(model, adapted)
    packed = score_groups(model, groups, row_tokens=row_tokens)
    for g, group in enumerate(groups):
        for r, rollout in enumerate(group.rollouts):
            alone = score_groups(model, [replace(group, rollouts=(rollout,))])
            torch.testing.assert_close(packed.logprobs_M[packed.spans[g][r]], alone.logprobs_M, atol=1e-5, rtol=0)
            torch.testing.assert_close(packed.entropies_M[packed.spans[g][r]], alone.entropies_M, atol=1e-4, rtol=0)


def test_distributions_sum_to_one_and_hold_the_choices(base: BaseModel) -> None:
    groups = mixed_groups(base.module, base)
    scored = score_groups(base.module, groups, distributions=True)
    flat = [d for group in groups for rollout in group.rollouts for d in rollout.decisions]
    assert set(scored.distributions) == set(Head) - {Head.TOKEN}
    for head, (at, log_probs) in scored.distributions.items():
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(at)))
        choices = torch.tensor([flat[index].choice for index in at.tolist()])
        assert {flat[index].head for index in at.tolist()} == {head}
        torch.testing.assert_close(log_probs.gather(-1, choices[:, None])[:, 0], scored.logprobs_M[at])


def test_the_gradient_changes_when_the_image_changes(base: BaseModel) -> None:
    model = share_base(base).module
    adapters = Adapters(model)
    adapters.attach("a", LoraSettings(rank=2))
    adapters.activate("a")
    groups = mixed_groups(model, base, per_group=1)[:1]

    def gradient(image_PD: torch.Tensor) -> torch.Tensor:
        scored = score_groups(model, [replace(groups[0], image_embeds_PD=image_PD)])
        parameters = list(adapters.parameters("a").values())
        found = torch.autograd.grad(scored.logprobs_M.sum(), parameters)
        return torch.cat([grad.flatten() for grad in found])

    first, again, other = (gradient(image_tokens(model, seed)) for seed in (0, 0, 5))
    assert torch.equal(first, again)
    assert (first - other).norm() > 0.05 * first.norm() > 0


def test_gradients_reach_the_image_and_are_finite_with_nuclei(base: BaseModel) -> None:
    groups = mixed_groups(base.module, base)
    images = [None if group.image_embeds_PD is None else group.image_embeds_PD.requires_grad_() for group in groups]
    scored = score_groups(base.module, groups)
    scored.logprobs_M.sum().backward()
    for image in images:
        if image is not None:
            assert image.grad is not None
            assert torch.isfinite(image.grad).all()
            assert image.grad.norm() > 0


def test_finite_difference_gradient(base: BaseModel) -> None:
    """The derivative along one direction of the image, in double precision."""
    model = share_base(base).module
    groups = mixed_groups(model, base, per_group=2)[:1]
    image = image_tokens(model, 0).requires_grad_()
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(3))

    def total(at: torch.Tensor) -> torch.Tensor:
        return score_groups(model, [replace(groups[0], image_embeds_PD=at)]).logprobs_M.double().sum()

    (gradient,) = torch.autograd.grad(total(image), image)
    step = 1e-2
    with torch.no_grad():
        slope = (total(image + step * direction) - total(image - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=0.02, abs=0.02)


def test_greedy_rollouts_have_no_odds(base: BaseModel) -> None:
    group = mixed_groups(base.module, base, per_group=1)[0]
    cold = replace(group, rollouts=(replace(group.rollouts[0], temperature=0.0),))
    with pytest.raises(InvalidField, match=r"groups\[0\]\.rollouts\[0\]\.temperature is 0\.0"):
        score_groups(base.module, [cold])
