"""The groups of a step as it trains on them: decisions laid out, rewards shaped, a flat group given its right answer.

A group is read from the spool when its turn comes, in planning and again in every pass. What is done to it depends on
its content, the settings and the step alone: every reading, on every rank, sees the same.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moontune.errors import InvalidField
from moontune.model.config import MoondreamConfig
from moontune.model.decisions import layout
from moontune.model.prompt import Prompt, build_prompt
from moontune.model.tokenizer import Tokenizer
from moontune.values.rollout import Decision, FinishReason
from moontune.values.training import Group, ObjectOrder, RlGroup, SftGroup, Target, TrainSettings
from services.trainer.advantages import has_signal
from services.trainer.sft import can_be_imitated, target_decisions
from services.trainer.shaping import overlong_penalty
from services.trainer.spool import Spool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to answer: a rollout, or a right answer that nobody sampled.

    positions: fed after the prompt. verified: its log-probabilities are a sampler's record that can be trusted.
    truncated: a limit cut it.
    """

    decisions: tuple[Decision, ...]
    thinking_count: int
    temperature: float
    positions: int
    verified: bool
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """A group with its attempts.

    shared: positions of prefix and prompt. rewards: one an attempt, shaped; empty for a supervised group.
    flat: whether the rollouts' rewards carried no signal. injected: whether the last attempt is the right answer.
    overlong: rollouts whose reward was lowered for their length.
    """

    group: Group
    prompt: Prompt
    shared: int
    attempts: tuple[Attempt, ...]
    rewards: tuple[float | None, ...] = ()
    flat: bool = False
    injected: bool = False
    overlong: int = 0

    @property
    def content(self) -> str:
        """A digest that depends on what the group says and not on its place in the step."""
        if isinstance(self.group, SftGroup):
            told: object = self.group.target
        else:
            choices = [[decision.choice for decision in attempt.decisions] for attempt in self.attempts]
            told = self.group.rewards, choices
        return hashlib.sha256(repr((self.group.request, told)).encode()).hexdigest()


class StepGroups:
    """The groups of one step, by their place in the stream."""

    def __init__(
        self, spool: Spool, settings: TrainSettings, step: int, config: MoondreamConfig, tokenizer: Tokenizer
    ) -> None:
        """`step` seeds the random order of objects."""
        self._spool, self._settings, self._step = spool, settings, step
        self._config, self._tokenizer = config, tokenizer

    def read(self, index: int) -> PreparedGroup:
        """The group at this place.

        Raises InvalidField, naming the place, for what no policy could have been asked or have answered.
        """
        group, field = self._spool.group(index), f"groups[{index}]"
        prompt, shared = shared_prompt(group, field, self._config, self._tokenizer)
        if isinstance(group, SftGroup):
            return PreparedGroup(group, prompt, shared, (self._answer(group, group.target, 1.0, f"{field}.sft"),))
        attempts = rollout_attempts(group, f"{field}.rl.rollouts", "rollout", self._config)
        return self._rewarded(PreparedGroup(group, prompt, shared, attempts), group, field)

    def _rewarded(self, prepared: PreparedGroup, group: RlGroup, field: str) -> PreparedGroup:
        settings, limit = self._settings, group.request.settings.max_tokens
        penalties = [
            overlong_penalty(attempt.positions, limit, settings.overlong_positions, settings.overlong_penalty)
            for attempt in prepared.attempts
        ]
        rewards = tuple(
            None if reward is None else reward + penalty
            for reward, penalty in zip(group.rewards, penalties, strict=True)
        )
        prepared = replace(
            prepared,
            rewards=rewards,
            flat=not has_signal(rewards),
            overlong=sum(penalty < 0.0 for penalty in penalties),
        )
        given = settings.ground_truth_reward
        scored = [reward for reward in rewards if reward is not None]
        if given is None or not prepared.flat or not scored or scored[0] >= given:
            return prepared
        if group.target is None or not can_be_imitated(group.target):
            return prepared
        answer = self._answer(group, group.target, group.rollouts[0].temperature, f"{field}.rl")
        return replace(prepared, attempts=(*prepared.attempts, answer), rewards=(*rewards, float(given)), injected=True)

    def _answer(self, group: Group, target: Target, temperature: float, field: str) -> Attempt:
        order = None
        if self._settings.object_order is ObjectOrder.RANDOM:
            order = random.Random(f"{self._step}:{(group.request, target)!r}")
        decisions, thinking = target_decisions(group.request, target, self._config, self._tokenizer, field, order)
        return _attempt(group, decisions, thinking, temperature, False, False, field, self._config)


def shared_prompt(group: Group, field: str, config: MoondreamConfig, tokenizer: Tokenizer) -> tuple[Prompt, int]:
    """The prompt, and the positions of prefix and prompt together; InvalidField names the place below `field`."""
    try:
        prompt = build_prompt(group.request, config, tokenizer)
    except InvalidField as error:
        inside = [replace(each, field=f"{field}.{each.field}") for each in error.violations]
        raise InvalidField(f"{field}: {error.message}", metadata=error.metadata, violations=inside) from error
    return prompt, len(prompt) + (config.prefix_length if group.request.image is not None else 1)


def rollout_attempts(group: RlGroup, field: str, leaf: str, config: MoondreamConfig) -> tuple[Attempt, ...]:
    """The group's rollouts; InvalidField names `field[n].leaf` for decisions that no policy could have taken."""
    return tuple(
        _attempt(
            group,
            rollout.decisions,
            rollout.thinking_count,
            rollout.temperature,
            group.verified,
            rollout.finish_reason is FinishReason.LENGTH,
            f"{field}[{number}].{leaf}".rstrip("."),
            config,
        )
        for number, rollout in enumerate(group.rollouts)
    )


def _attempt(
    group: Group,
    decisions: Sequence[Decision],
    thinking: int,
    temperature: float,
    verified: bool,
    truncated: bool,
    field: str,
    config: MoondreamConfig,
) -> Attempt:
    request = group.request
    laid = layout(request.skill, decisions, config, reasoning=request.reasoning, thinking_count=thinking, field=field)
    return Attempt(tuple(decisions), thinking, temperature, len(laid.inputs), verified, truncated)
