"""The learner re-scores fresh rollouts and finds the log-probabilities that the sampler recorded."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.imaging.crops import CropLayout, cut_crops
from moontune.imaging.decode import decode_image
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora import Adapters
from moontune.model.prompt import build_prompt
from moontune.model.scoring import ScoringGroup, ScoringRollout, score_groups
from moontune.values.finetune import LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.request import SkillRequest
from moontune.values.rollout import Head, RolloutGroup
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask

TOLERANCE = 1e-4

MIXED = [
    ask(Skill.DETECT, "red cup", 0),
    ask(Skill.POINT, "a", 1, temperature=0.6),
    ask(Skill.QUERY, "how many cups are on the table?", 2, temperature=1.4),
    ask(Skill.QUERY, "why?", 3, top_p=0.8),
    ask(Skill.QUERY, "think", 4, reasoning=True, temperature=0.9),
    ask(Skill.QUERY, "think well", 5, reasoning=True, top_p=0.8, max_tokens=40),
    ask(Skill.QUERY, "no image", None),
    ask(Skill.QUERY, "what is here?", 1, spatial_refs=(Point(0.2, 0.3), Box(0.1, 0.2, 0.5, 0.6))),
    ask(Skill.DETECT, "a much longer name of a thing", 5, temperature=2.0, max_objects=2),
]


def learner_logprobs(base: BaseModel, groups: Sequence[RolloutGroup], adapter: AdapterRef | None) -> torch.Tensor:
    tree = share_base(base)
    if adapter is not None:
        adapters = Adapters(tree.module)
        adapters.load("learner", Path(adapter.path))
        adapters.activate("learner")
    vision = base.config.vision
    cut = CropLayout(vision.crop_size, vision.overlap_margin * vision.patch_size, vision.max_crops)

    def image(request: SkillRequest) -> torch.Tensor | None:
        if request.image is None or request.image.data is None:
            return None
        return tree.module.encode_image(cut_crops(decode_image(request.image.data), cut))

    scoring = [
        ScoringGroup(
            group.request.skill,
            build_prompt(group.request, base.config, base.tokenizer),
            tuple(ScoringRollout.of(rollout) for rollout in group.rollouts),
            image(group.request),
            group.request.reasoning,
        )
        for group in groups
    ]
    return score_groups(tree.module, scoring).logprobs_M


def recorded(groups: Sequence[RolloutGroup]) -> torch.Tensor:
    found = [each.logprob for group in groups for rollout in group.rollouts for each in rollout.decisions]
    return torch.tensor(found)


@pytest.mark.parametrize(
    "targets",
    [None, (), (LoraTarget.TEXT_MLP, LoraTarget.REGION), (LoraTarget.TEXT_ATTENTION, LoraTarget.VISION)],
    ids=["base", "text", "region", "vision"],
)
def test_a_mixed_batch_rescores(
    engine: Engine,
    base: BaseModel,
    make_order: Callable[..., GenerationOrder],
    make_adapter: Callable[..., AdapterRef],
    targets: tuple[LoraTarget, ...] | None,
) -> None:
    adapter = None if targets is None else make_adapter(3, targets)
    orders = [make_order(request, 4, seed, adapter) for seed, request in enumerate(MIXED)]
    groups = [answer.group for answer in engine.generate_all([(Caller(), order) for order in orders])]
    assert {each.head for group in groups for rollout in group.rollouts for each in rollout.decisions} == set(Head)
    torch.testing.assert_close(learner_logprobs(base, groups, adapter), recorded(groups), atol=TOLERANCE, rtol=0)


def test_without_its_adapter_the_learner_disagrees(
    engine: Engine,
    base: BaseModel,
    make_order: Callable[..., GenerationOrder],
    make_adapter: Callable[..., AdapterRef],
) -> None:
    group = engine.generate(Caller(), make_order(MIXED[0], 8, 1, make_adapter(3))).group
    assert (learner_logprobs(base, [group], None) - recorded([group])).abs().max() > 0.1


def test_a_nucleus_is_recorded_and_holds_the_choice(engine: Engine, make_order: Callable[..., GenerationOrder]) -> None:
    group = engine.generate(Caller(), make_order(ask(Skill.QUERY, "why?", top_p=0.5), 4)).group
    for rollout in group.rollouts:
        assert all(each.nucleus is not None and each.choice in each.nucleus for each in rollout.decisions)
        assert any(each.logprob < 0.0 for each in rollout.decisions)


def test_the_separator_is_a_decision_and_the_thinking_is_counted(
    engine: Engine, base: BaseModel, make_order: Callable[..., GenerationOrder]
) -> None:
    request = ask(Skill.QUERY, "think", reasoning=True, max_tokens=200, temperature=2.0)
    group = engine.generate(Caller(), make_order(request, 16, 5)).group
    special = base.config.tokenizer
    answered = [rollout for rollout in group.rollouts if rollout.thinking_count < len(rollout.decisions)]
    assert answered, "the seeded base should end its thinking in some of 16 attempts"
    for rollout in answered:
        separator = rollout.decisions[rollout.thinking_count]
        assert (separator.head, separator.choice) == (Head.TOKEN, special.answer_id)
        thoughts = [each.choice for each in rollout.decisions[: rollout.thinking_count] if each.head is Head.TOKEN]
        assert not {special.eos_id, special.size_id, special.answer_id} & set(thoughts)
        said = [each.choice for each in rollout.decisions[rollout.thinking_count + 1 :]]
        assert special.answer_id not in said
