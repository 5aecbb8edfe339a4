"""From the groups of a step to a plan: which carry signal, with which advantages and weights, in which micro-batches.

Everything that normalises is computed here, over the whole step and from counts alone, before the first forward pass.
Groups are put in an order of their own (by image, then by content), so that the order they came in changes nothing and
each image is encoded once. No torch; one group is in memory at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moontune.values.skill import Skill
from moontune.values.training import Aggregation, RlGroup, TrainSettings
from services.trainer.advantages import group_advantages, has_signal
from services.trainer.aggregation import GroupShape, decision_weights
from services.trainer.line import Line
from services.trainer.prepared import PreparedGroup, StepGroups
from services.trainer.tally import Tally


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group that will be trained on. What is per attempt has one entry for each, left-out ones too.

    index: its place in the stream. image: SHA-256, "" for none. order: sorts equal groups together. counts: decisions,
    0 where the attempt is left out (no score, truncated). advantages. verified: whether its record can be trusted.
    shared: positions of prefix and prompt. positions: fed after them. length: the request's limit.
    weights: of each decision.
    """

    index: int
    supervised: bool
    skill: Skill
    image: str
    order: str
    counts: tuple[int, ...]
    advantages: tuple[float, ...]
    verified: tuple[bool, ...]
    shared: int
    positions: tuple[int, ...]
    length: int
    weights: tuple[float, ...] = ()

    @property
    def kept(self) -> tuple[int, ...]:
        """The attempts that are not left out."""
        return tuple(index for index, count in enumerate(self.counts) if count)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some attempts of a group, as much of it as one row holds."""

    group: PlannedGroup
    attempts: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Of the row: the prompt once, then every attempt."""
        return self.group.shared + sum(self.group.positions[index] for index in self.attempts)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """groups: in training order. tally: of all groups, dropped ones too."""

    groups: tuple[PlannedGroup, ...]
    tally: Tally


def plan_batch(
    groups: StepGroups, count: int, line: Line, settings: TrainSettings, aggregation: Aggregation
) -> BatchPlan:
    """Read every group once and plan the step.

    Args:
        groups: of the step.
        count: how many.
        line: of the policy being trained; a rollout's lag is counted along it.
        settings: of the step.
        aggregation: for the RL groups; supervised ones take the token mean.

    Raises:
        InvalidField: a prompt leaves no room, or no policy could have taken a rollout's decisions; names the place.
    """
    tally = Tally()
    planned = [
        group
        for index in range(count)
        if (group := _plan(groups.read(index), index, line, settings, tally)) is not None
    ]
    reinforced = _weigh([group for group in planned if not group.supervised], aggregation)
    supervised = _weigh([group for group in planned if group.supervised], Aggregation.TOKEN_MEAN)
    return BatchPlan(tuple(sorted((*reinforced, *supervised), key=lambda group: (group.image, group.order))), tally)


def micro_batches(groups: Sequence[PlannedGroup], micro_tokens: int) -> Iterator[list[Piece]]:
    """Consecutive pieces whose padded rows stay within `micro_tokens` positions; a longer attempt goes alone.

    A group that is longer by itself is split between its attempts, each piece running the prompt anew: neither the
    number of groups nor that of rollouts decides how much memory a pass takes.
    """
    batch: list[Piece] = []
    longest = 0
    for piece in (piece for group in groups for piece in _pieces(group, micro_tokens)):
        wider = max(longest, piece.positions)
        if batch and wider * (len(batch) + 1) > micro_tokens:
            yield batch
            batch, wider = [], piece.positions
        batch.append(piece)
        longest = wider
    if batch:
        yield batch


def _pieces(group: PlannedGroup, micro_tokens: int) -> Iterator[Piece]:
    taken: list[int] = []
    length = group.shared
    for index in group.kept:
        if taken and length + group.positions[index] > micro_tokens:
            yield Piece(group, tuple(taken))
            taken, length = [], group.shared
        taken.append(index)
        length += group.positions[index]
    yield Piece(group, tuple(taken))


def _plan(
    prepared: PreparedGroup, index: int, line: Line, settings: TrainSettings, tally: Tally
) -> PlannedGroup | None:
    group, request = prepared.group, prepared.group.request
    tally.count(prepared)
    plan = PlannedGroup(
        index=index,
        supervised=not isinstance(group, RlGroup),
        skill=request.skill,
        image=request.image.sha256 if request.image else "",
        order=f"{prepared.content}:{index:05d}",
        counts=tuple(len(attempt.decisions) for attempt in prepared.attempts),
        advantages=(0.0,) * len(prepared.attempts),
        verified=tuple(attempt.verified for attempt in prepared.attempts),
        shared=prepared.shared,
        positions=tuple(attempt.positions for attempt in prepared.attempts),
        length=request.settings.max_tokens,
    )
    if not isinstance(group, RlGroup):
        return plan
    return _reinforce(plan, prepared, settings, tally) if _is_fresh(group, line, settings, tally) else None


def _is_fresh(group: RlGroup, line: Line, settings: TrainSettings, tally: Tally) -> bool:
    if not group.verified:
        return True
    lag = max(line.lag(rollout.policy.step) for rollout in group.rollouts)
    tally.lags.append(lag)
    tally.stale_groups += lag > settings.max_staleness_steps
    return lag <= settings.max_staleness_steps


def _reinforce(
    plan: PlannedGroup, prepared: PreparedGroup, settings: TrainSettings, tally: Tally
) -> PlannedGroup | None:
    """The plan with advantages; None when the group teaches nothing."""
    if not has_signal(prepared.rewards):
        return None
    advantages = group_advantages(prepared.rewards, settings.loss, settings.normalise_std)
    tally.advantages += [value for value in advantages if value is not None]
    counts = tuple(
        0 if advantage is None or (settings.mask_truncated and attempt.truncated) else len(attempt.decisions)
        for advantage, attempt in zip(advantages, prepared.attempts, strict=True)
    )
    if not any(counts):
        return None
    return replace(plan, counts=counts, advantages=tuple(value or 0.0 for value in advantages))


def _weigh(groups: Sequence[PlannedGroup], aggregation: Aggregation) -> list[PlannedGroup]:
    weights = decision_weights([GroupShape(group.skill, group.counts, group.length) for group in groups], aggregation)
    return [
        replace(group, weights=tuple(weights_of_group)) for group, weights_of_group in zip(groups, weights, strict=True)
    ]
