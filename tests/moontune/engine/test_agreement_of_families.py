"""Every family's fresh rollouts, mixed in one batch, re-scored by the learner."""

from collections.abc import Callable

import pytest
import torch

from moontune.engine import adapted_layers
from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.model.base_model import BaseModel, load_base
from moontune.values.finetune import FinetuneKind, LoraTarget
from moontune.values.skill import Skill
from tests.fakes.families import GROUPED, MOONDREAM2, MOONDREAM3, MOONDREAM3_NORMED
from tests.fakes.tiny_base import write_tiny_base
from tests.moontune.engine.conftest import Caller, ask
from tests.moontune.engine.test_agreement import MIXED, TOLERANCE, learner_logprobs, recorded

EVERYWHERE = tuple(LoraTarget)


@pytest.fixture(scope="session", params=[MOONDREAM2, GROUPED, MOONDREAM3, MOONDREAM3_NORMED], ids=lambda one: one.name)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("base")
    return load_base(str(write_tiny_base(folder, seed=2, config=request.param)), device="cpu")


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_a_mixed_batch_rescores(
    engine: Engine,
    base: BaseModel,
    make_order: Callable[..., GenerationOrder],
    make_adapter: Callable[..., AdapterRef],
    adapted: bool,
) -> None:
    adapter = make_adapter(3, EVERYWHERE) if adapted else None
    orders = [make_order(request, 3, seed, adapter) for seed, request in enumerate(MIXED)]
    groups = [answer.group for answer in engine.generate_all([(Caller(), order) for order in orders])]
    torch.testing.assert_close(learner_logprobs(base, groups, adapter), recorded(groups), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("gathered", [1 << 24, 1], ids=["at once", "token by token"])
def test_adapters_of_every_form_mix(
    engine: Engine,
    base: BaseModel,
    make_order: Callable[..., GenerationOrder],
    make_adapter: Callable[..., AdapterRef],
    monkeypatch: pytest.MonkeyPatch,
    gathered: int,
) -> None:
    """Base, LoRA of other ranks and targets, and region heads of one's own, with a delta on them too: one batch."""
    monkeypatch.setattr(adapted_layers, "MOST_GATHERED", gathered)
    own = FinetuneKind.LORA_REGION
    adapters = [
        None,
        make_adapter(3, EVERYWHERE),
        make_adapter(4, (LoraTarget.TEXT_MLP,), rank=7),
        make_adapter(5, (LoraTarget.TEXT_MLP, LoraTarget.REGION), kind=own),
        make_adapter(6, kind=own),
        make_adapter(7, kind=own),
        make_adapter(8, (LoraTarget.REGION,), kind=own),
    ]
    orders = [
        make_order(request, 2, seed, adapters[(seed + shift) % len(adapters)])
        for seed, request in enumerate(MIXED)
        for shift in (0, 3)
    ]
    places = ask(Skill.DETECT, "red cup", 0, temperature=4.0)  # so hot that all of them go on to draw bins
    orders += [make_order(places, 8, seed, adapter) for seed, adapter in enumerate(adapters)]
    groups = [answer.group for answer in engine.generate_all([(Caller(), order) for order in orders])]
    for adapter in adapters:
        mine = [group for group, order in zip(groups, orders, strict=True) if order.adapter is adapter]
        torch.testing.assert_close(learner_logprobs(base, mine, adapter), recorded(mine), atol=TOLERANCE, rtol=0)
        if adapter is not None:
            assert (learner_logprobs(base, mine, None) - recorded(mine)).abs().max() > 0.02
