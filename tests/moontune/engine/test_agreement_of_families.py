"""Every family's fresh rollouts, mixed in one batch, re-scored by the learner."""

from collections.abc import Callable

import pytest
import torch

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.model.base_model import BaseModel, load_base
from moontune.values.finetune import LoraTarget
from tests.fakes.families import GROUPED, MOONDREAM2, MOONDREAM3, MOONDREAM3_NORMED
from tests.fakes.tiny_base import write_tiny_base
from tests.moontune.engine.conftest import Caller
from tests.moontune.engine.test_agreement import MIXED, TOLERANCE, learner_logprobs, recorded

EVERYWHERE = tuple(LoraTarget)
NO_EXPERTS = tuple(target for target in LoraTarget if target is not LoraTarget.TEXT_MLP)
"""The engine refuses deltas of experts so far."""


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
    targets = EVERYWHERE if base.config.text.moe is None else NO_EXPERTS
    adapter = make_adapter(3, targets) if adapted else None
    orders = [make_order(request, 3, seed, adapter) for seed, request in enumerate(MIXED)]
    groups = [answer.group for answer in engine.generate_all([(Caller(), order) for order in orders])]
    torch.testing.assert_close(learner_logprobs(base, groups, adapter), recorded(groups), atol=TOLERANCE, rtol=0)
