"""Attempts at a batch of prompts, with their scores."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moontune.data.sample import Sample
from moontune.errors import ImageUnknown
from moontune.values.job import JobConfig
from moontune.values.request import SkillRequest
from moontune.values.reward import ParseStatus, RewardResult, RewardSample
from moontune.values.reward_report import SampleGroup
from moontune.values.rollout import RolloutGroup
from moontune.values.sampling import SamplingSettings
from moontune.values.training import RlGroup
from services.jobs.peers import Peers

SAME = 1e-6
"""Rewards of a group that differ by no more are equal."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Groups of rollouts with one result a rollout, and how long (seconds) making and scoring them took."""

    groups: tuple[RolloutGroup, ...]
    results: tuple[tuple[RewardResult, ...], ...]
    rollout_s: float
    reward_s: float

    def rl_groups(self, shuffle_seed: tuple[int, int] | None = None) -> tuple[RlGroup, ...]:
        """What the trainer gets. shuffle_seed: the control, rewards are permuted over all rollouts of the batch."""
        rewards = [[result.reward for result in results] for results in self.results]
        if shuffle_seed is not None:
            flat = [reward for row in rewards for reward in row]
            order = iter(np.random.default_rng(shuffle_seed).permutation(len(flat)))
            rewards = [[flat[int(next(order))] for _ in row] for row in rewards]
        return tuple(
            RlGroup(group.request, group.rollouts, tuple(row)) for group, row in zip(self.groups, rewards, strict=True)
        )

    @property
    def rewards(self) -> list[float]:
        """Every reward that was given, in order; failed grades are left out."""
        return [result.reward for results in self.results for result in results if result.reward is not None]

    @property
    def dead_share(self) -> float:
        """Share of the groups whose rewards are all equal: they teach nothing."""
        spreads = [[result.reward for result in results if result.reward is not None] for results in self.results]
        alive = sum(max(spread) - min(spread) > SAME for spread in spreads if spread)
        return 1.0 - alive / max(1, len(spreads))

    def sample_groups(self, samples: Sequence[Sample], settings: SamplingSettings) -> tuple[SampleGroup, ...]:
        """As a dry run of a reward wants them; `samples` has one for each group."""
        return tuple(
            SampleGroup(
                sample.request(settings),
                tuple(rollout.output for rollout in group.rollouts),
                sample.ground_truth,
                tuple(len(rollout.decisions) for rollout in group.rollouts),
            )
            for group, sample in zip(self.groups, samples, strict=True)
        )

    @property
    def parse_rate(self) -> float:
        """Share of the rollouts that could be read as an answer."""
        statuses = [result.status for results in self.results for result in results]
        return sum(status is ParseStatus.OK for status in statuses) / max(1, len(statuses))


async def attempt(
    peers: Peers, config: JobConfig, model: str, samples: Sequence[Sample], turn: int, *, greedy: bool = False
) -> Attempts:
    """Make and score attempts at each sample, all groups asked for at once so that the engine batches them.

    turn: goes into the seeds, so that no two turns of a job sample alike. greedy: one attempt each at temperature 0.
    """
    count = 1 if greedy else config.rollouts_per_group
    settings = replace(config.sampling, temperature=0.0, top_p=1.0) if greedy else config.sampling
    started = time.monotonic()
    groups = await _all_at_once(
        [
            peers.rollouts(model, sample.request(settings), count, _seed(config.seed, turn, place))
            for place, sample in enumerate(samples)
        ]
    )
    made = time.monotonic()
    results = await _score(peers, config, samples, groups)
    return Attempts(groups, results, made - started, time.monotonic() - made)


async def _all_at_once(orders: Sequence[Coroutine[object, object, RolloutGroup]]) -> tuple[RolloutGroup, ...]:
    """Every answer, in order; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(order) for order in orders]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tuple(task.result() for task in asked)


async def _score(
    peers: Peers, config: JobConfig, samples: Sequence[Sample], groups: Sequence[RolloutGroup]
) -> tuple[tuple[RewardResult, ...], ...]:
    asked = [_by_digest(group) for group in groups]
    try:
        scored = await peers.score(config.reward, _to_score(samples, groups, asked))
    except ImageUnknown:  # a judge looks at pixels, and has not seen these or no longer has them
        asked = [sample.request(config.sampling) for sample in samples]
        scored = await peers.score(config.reward, _to_score(samples, groups, asked))
    results = iter(scored)
    return tuple(tuple(next(results) for _ in group.rollouts) for group in groups)


def _to_score(
    samples: Sequence[Sample], groups: Sequence[RolloutGroup], asked: Sequence[SkillRequest]
) -> list[RewardSample]:
    return [
        RewardSample(request, rollout.output, sample.ground_truth, len(rollout.decisions))
        for sample, group, request in zip(samples, groups, asked, strict=True)
        for rollout in group.rollouts
    ]


def _by_digest(group: RolloutGroup) -> SkillRequest:
    image = group.request.image
    return replace(group.request, image=None if image is None else image.named())


def _seed(seed: int, turn: int, place: int) -> int:
    """A seed of 63 bits for one group, unlike any other of the job."""
    return int(np.random.SeedSequence([seed, turn, place]).generate_state(1, np.uint64)[0] >> np.uint64(1))
