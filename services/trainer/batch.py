"""From the groups of a step to a plan: which carry signal, with which advantages and weights, in which micro-batches.

Everything that normalises is computed here, over the whole step and from counts alone, before the first forward pass.
Groups are put in an order of their own (by image, then by content), so that the order they came in changes nothing and
each image is encoded once. No torch; one group is in memory at a time.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from moontune.errors import InvalidField
from moontune.model.config import MoondreamConfig
from moontune.model.decisions import layout
from moontune.model.prompt import build_prompt
from moontune.model.tokenizer import Tokenizer
from moontune.values.rollout import Decision, FinishReason
from moontune.values.skill import Skill
from moontune.values.training import Aggregation, Group, RlGroup, SftGroup, TrainSettings
from services.trainer.advantages import group_advantages, has_signal
from services.trainer.aggregation import GroupShape, decision_weights
from services.trainer.line import Line
from services.trainer.sft import target_decisions
from services.trainer.spool import Spool


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group that will be trained on.

    index: its place in the stream. image: SHA-256, "" for none. counts: decisions per rollout, 0 where the rollout is
    left out (no score). advantages: per rollout. weights: of each decision, per rollout. positions: of the longest row.
    """

    index: int
    supervised: bool
    verified: bool
    skill: Skill
    image: str
    order: str
    counts: tuple[int, ...]
    advantages: tuple[float, ...]
    positions: int
    length: int
    weights: tuple[float, ...] = ()


@dataclass(slots=True)
class Tally:
    """What the groups of a step were like; turned into metrics at the end."""

    rewards: list[float] = field(default_factory=list[float])
    within_std: list[float] = field(default_factory=list[float])
    advantages: list[float] = field(default_factory=list[float])
    lags: list[int] = field(default_factory=list[int])
    rl_groups: int = 0
    sft_groups: int = 0
    dead_groups: int = 0
    all_max_groups: int = 0
    all_min_groups: int = 0
    stale_groups: int = 0
    unverified_groups: int = 0
    rollouts: int = 0
    unscored: int = 0
    truncated: int = 0
    decisions: int = 0
    objects: int = 0
    object_rollouts: int = 0


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """groups: in training order. tally: of all groups, dropped ones too."""

    groups: tuple[PlannedGroup, ...]
    tally: Tally


def plan_batch(
    spool: Spool,
    count: int,
    line: Line,
    settings: TrainSettings,
    aggregation: Aggregation,
    config: MoondreamConfig,
    tokenizer: Tokenizer,
) -> BatchPlan:
    """Read every group once and plan the step.

    Args:
        spool: where the groups are.
        count: how many.
        step: of the policy being trained; a rollout's lag is counted from it.
        settings: of the step.
        aggregation: of the loss, for the RL groups; supervised ones take the token mean.
        config: of the base, to check decisions against.
        tokenizer: of the base.

    Raises:
        InvalidField: a prompt leaves no room, or no policy could have taken a rollout's decisions; names the place.
    """
    tally = Tally()
    planned = [
        group
        for index in range(count)
        if (group := _plan(spool.group(index), index, line, settings, config, tokenizer, tally)) is not None
    ]
    reinforced = _weigh([group for group in planned if not group.supervised], aggregation)
    supervised = _weigh([group for group in planned if group.supervised], Aggregation.TOKEN_MEAN)
    return BatchPlan(tuple(sorted((*reinforced, *supervised), key=lambda group: (group.image, group.order))), tally)


def micro_batches(groups: Sequence[PlannedGroup], micro_tokens: int) -> Iterator[list[PlannedGroup]]:
    """Consecutive groups whose padded rows stay within `micro_tokens` positions; a longer group goes alone."""
    batch: list[PlannedGroup] = []
    longest = 0
    for group in groups:
        wider = max(longest, group.positions)
        if batch and wider * (len(batch) + 1) > micro_tokens:
            yield batch
            batch, wider = [], group.positions
        batch.append(group)
        longest = wider
    if batch:
        yield batch


def group_decisions(
    group: Group, config: MoondreamConfig, tokenizer: Tokenizer, field: str
) -> tuple[tuple[tuple[Decision, ...], int], ...]:
    """Decisions and thinking count of each rollout; one of a supervised group, towards its target."""
    if isinstance(group, SftGroup):
        return (target_decisions(group, config, tokenizer, f"{field}.sft"),)
    return tuple((rollout.decisions, rollout.thinking_count) for rollout in group.rollouts)


def _plan(
    group: Group,
    index: int,
    line: Line,
    settings: TrainSettings,
    config: MoondreamConfig,
    tokenizer: Tokenizer,
    tally: Tally,
) -> PlannedGroup | None:
    positions = row_positions(group, f"groups[{index}]", config, tokenizer)
    request = group.request
    plan = PlannedGroup(
        index=index,
        supervised=isinstance(group, SftGroup),
        verified=True,
        skill=request.skill,
        image=request.image.sha256 if request.image else "",
        order=_content(group, index),
        counts=(),
        advantages=(),
        positions=positions,
        length=request.settings.max_tokens,
    )
    if isinstance(group, SftGroup):
        tally.sft_groups += 1
        ((decisions, _),) = group_decisions(group, config, tokenizer, f"groups[{index}]")
        return replace(plan, counts=(len(decisions),), advantages=(0.0,))
    _count(group, tally)
    lag = 0 if not group.verified else max(line.lag(rollout.policy.step) for rollout in group.rollouts)
    if group.verified:
        tally.lags.append(lag)
    if lag > settings.max_staleness_steps:
        tally.stale_groups += 1
        return None
    if not has_signal(group.rewards):
        return None
    advantages = group_advantages(group.rewards, settings.loss, settings.normalise_std)
    tally.advantages += [value for value in advantages if value is not None]
    counts = tuple(
        0 if advantage is None else len(rollout.decisions)
        for advantage, rollout in zip(advantages, group.rollouts, strict=True)
    )
    if not any(counts):
        return None
    return replace(plan, verified=group.verified, counts=counts, advantages=tuple(value or 0.0 for value in advantages))


def _content(group: Group, index: int) -> str:
    """A digest that sorts equal groups together, whatever their places."""
    if isinstance(group, SftGroup):
        told: object = group.target
    else:
        told = group.rewards, [[decision.choice for decision in rollout.decisions] for rollout in group.rollouts]
    return hashlib.sha256(repr((group.request, told)).encode()).hexdigest() + f":{index:05d}"


def row_positions(group: Group, field: str, config: MoondreamConfig, tokenizer: Tokenizer) -> int:
    """Positions of the group's row: prefix, prompt and every rollout's inputs.

    Raises InvalidField, naming the place below `field`, for what no policy could have been asked or have answered.
    """
    try:
        prompt = build_prompt(group.request, config, tokenizer)
    except InvalidField as error:
        raise InvalidField(f"{field}: {error.message}", metadata=error.metadata, violations=error.violations) from error
    total = len(prompt) + (config.prefix_length if group.request.image is not None else 1)
    for number, (decisions, thinking) in enumerate(group_decisions(group, config, tokenizer, field)):
        laid = layout(
            group.request.skill,
            decisions,
            config,
            reasoning=group.request.reasoning,
            thinking_count=thinking,
            field=f"{field}.rl.rollouts[{number}].rollout" if isinstance(group, RlGroup) else f"{field}.sft",
        )
        total += len(laid.inputs)
    return total


def _count(group: RlGroup, tally: Tally) -> None:
    scored = [reward for reward in group.rewards if reward is not None]
    tally.rl_groups += 1
    tally.rollouts += len(group.rollouts)
    tally.unscored += len(group.rewards) - len(scored)
    tally.rewards += scored
    tally.truncated += sum(rollout.finish_reason is FinishReason.LENGTH for rollout in group.rollouts)
    tally.decisions += sum(len(rollout.decisions) for rollout in group.rollouts)
    tally.unverified_groups += not group.verified
    if scored:
        mean = sum(scored) / len(scored)
        tally.within_std.append(math.sqrt(sum((reward - mean) * (reward - mean) for reward in scored) / len(scored)))
    if not has_signal(group.rewards):
        tally.dead_groups += 1
        tally.all_max_groups += bool(scored) and scored[0] >= 1.0
        tally.all_min_groups += bool(scored) and scored[0] <= 0.0
    for rollout in group.rollouts:
        found = getattr(rollout.output, "objects", None)
        found = getattr(rollout.output, "points", None) if found is None else found
        if found is not None:
            tally.objects += len(found)
            tally.object_rollouts += 1


def _weigh(groups: Sequence[PlannedGroup], aggregation: Aggregation) -> list[PlannedGroup]:
    weights = decision_weights([GroupShape(group.skill, group.counts, group.length) for group in groups], aggregation)
    return [
        replace(group, weights=tuple(weights_of_group)) for group, weights_of_group in zip(groups, weights, strict=True)
    ]
