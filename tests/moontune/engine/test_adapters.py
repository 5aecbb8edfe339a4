"""Which weights answer: versions never mix, the budget holds, the base stays the base."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.errors import InvalidField
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora import Adapters
from moontune.values.adapter import AdapterState
from moontune.values.finetune import AttentionWiring, FinetuneKind, LoraSettings, LoraTarget
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask
from tests.moontune.engine.test_agreement import TOLERANCE, learner_logprobs, recorded
from tests.moontune.engine.test_engine import assert_same

MakeOrder = Callable[..., GenerationOrder]
MakeAdapter = Callable[..., AdapterRef]


def test_versions_do_not_share_a_cache(
    engine: Engine, base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    request = ask(Skill.DETECT)
    adapters = [None, make_adapter(1), make_adapter(2, (LoraTarget.VISION,), rank=8), make_adapter(1), None]
    for adapter in adapters:
        order = make_order(request, 4, 3, adapter)
        alone = Engine(base, EngineSettings()).generate(Caller(), order)
        got = engine.generate(Caller(), order)
        assert_same(got, alone)
        digests = {rollout.policy.adapter_digest for rollout in got.group.rollouts}
        assert digests == {"" if adapter is None else adapter.digest}
    outputs = {
        str([r.output for r in engine.generate(Caller(), make_order(request, 4, 3, adapter)).group.rollouts])
        for adapter in adapters[:3]
    }
    assert len(outputs) == 3


def test_mixed_adapters_each_get_their_own(
    engine: Engine, base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    adapters = [make_adapter(seed, rank=2 + seed) for seed in range(1, 4)]
    orders = [make_order(ask(Skill.POINT, "x" * i), 2, i, (None, *adapters)[i % 4]) for i in range(1, 9)]
    got = engine.generate_all([(Caller(), order) for order in orders])
    fresh = Engine(base, EngineSettings())
    for answer, order in zip(got, orders, strict=True):
        assert_same(answer, fresh.generate(Caller(), order))


def test_the_budget_evicts_the_least_recently_used(
    base: BaseModel, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    first, second, third = (make_adapter(seed) for seed in (1, 2, 3))
    probe = Engine(base, EngineSettings())
    probe.generate(Caller(), make_order(ask(Skill.POINT), 1, adapter=first))
    one_bytes = probe.status().caches[1].size_bytes
    engine = Engine(base, EngineSettings(adapter_cache_bytes=2 * one_bytes))
    for adapter in (first, second, first, third):
        engine.generate(Caller(), make_order(ask(Skill.POINT), 1, adapter=adapter))
    status = engine.status()
    states = {each.policy.adapter_digest: each.state for each in status.adapters}
    assert states == {
        first.digest: AdapterState.DEVICE,
        second.digest: AdapterState.HOST,
        third.digest: AdapterState.DEVICE,
    }
    cache = status.caches[1]
    assert (cache.hits, cache.misses, cache.evictions, cache.size_bytes) == (1, 3, 1, 2 * one_bytes)
    assert_same(
        engine.generate(Caller(), make_order(ask(Skill.POINT), 2, adapter=second)),
        probe.generate(Caller(), make_order(ask(Skill.POINT), 2, adapter=second)),
    )


def test_a_batch_does_not_disturb_a_learner_on_the_same_base(
    base: BaseModel, engine: Engine, make_order: MakeOrder, make_adapter: MakeAdapter
) -> None:
    before = {name: parameter.clone() for name, parameter in base.module.named_parameters()}
    engine.generate(Caller(), make_order(ask(Skill.DETECT), adapter=make_adapter(1)))
    after = dict(base.module.named_parameters())
    assert before.keys() == after.keys()
    assert all(bool((after[name] == value).all()) for name, value in before.items())


def test_a_delta_from_the_block_input_acts_as_in_the_learner(
    engine: Engine, base: BaseModel, make_order: MakeOrder, tmp_path: Path
) -> None:
    adapters = Adapters(share_base(base).module)
    adapters.attach("wired", LoraSettings(4, targets=(LoraTarget.TEXT_ATTENTION,), wiring=AttentionWiring.BLOCK_INPUT))
    with torch.no_grad():
        for name, parameter in adapters.parameters("wired").items():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    adapters.save("wired", tmp_path)
    adapter = AdapterRef("sha256:" + "9" * 64, str(tmp_path))
    orders = [make_order(ask(Skill.DETECT), 3, 1, adapter), make_order(ask(Skill.QUERY), 3, 1)]
    groups = [answer.group for answer in engine.generate_all([(Caller(), order) for order in orders])]
    agrees = (learner_logprobs(base, groups[:1], adapter) - recorded(groups[:1])).abs().max()
    bare = (learner_logprobs(base, groups[:1], None) - recorded(groups[:1])).abs().max()
    assert agrees < TOLERANCE < 0.1 < bare
    torch.testing.assert_close(learner_logprobs(base, groups[1:], None), recorded(groups[1:]), atol=TOLERANCE, rtol=0)


def test_what_cannot_be_mixed_is_refused_not_ignored(
    engine: Engine, base: BaseModel, make_order: MakeOrder, tmp_path: Path
) -> None:
    adapters = Adapters(share_base(base).module)
    adapters.attach("whole", LoraSettings(4), FinetuneKind.FULL)
    adapters.save("whole", tmp_path)
    adapter = AdapterRef("sha256:" + "8" * 64, str(tmp_path))
    with pytest.raises(InvalidField, match=r"adapter\.kind is 'full'; allowed: lora or .* export it merged"):
        engine.generate(Caller(), make_order(ask(Skill.DETECT), 1, adapter=adapter))
