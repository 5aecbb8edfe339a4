"""A rollout is the sequence of decisions that a policy took; an action is never only a token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from moontune.errors import InvalidField
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import Output
from moontune.values.request import SkillRequest
from moontune.values.skill import Skill


class Head(StrEnum):
    """Which distribution a decision was drawn from.

    TOKEN: the vocabulary. GO: {0 stop, 1 one more object}, the softmax over the ids {eos, coord} of the language
    head. X, Y: 1024 bins of a centre or point. WIDTH, HEIGHT: 1024 log-scale bins; both read one hidden state.
    """

    TOKEN = "token"
    GO = "go"
    X = "x"
    Y = "y"
    WIDTH = "width"
    HEIGHT = "height"


@dataclass(frozen=True, slots=True)
class Decision:
    """One categorical choice.

    choice: token id, bin 0..1023, or 0/1 of GO.
    logprob: natural log-probability under the distribution actually sampled (after temperature and nucleus);
        0.0 at temperature 0.
    nucleus: token ids kept by top_p, sorted, so that the learner renormalises over the same set; None when top_p is 1.
    """

    head: Head
    choice: int
    logprob: float
    nucleus: tuple[int, ...] | None = None

    def validate(self, field: str) -> None:
        """Raise InvalidField, naming `field`, for a choice its head does not have or an impossible log-probability."""
        most = _LARGEST_CHOICE[self.head]
        if not 0 <= self.choice <= most:
            raise InvalidField.of(f"{field}.choice", self.choice, f"0 to {most} for {self.head}")
        if not (math.isfinite(self.logprob) and self.logprob <= _LOGPROB_ROUNDING):
            raise InvalidField.of(f"{field}.logprob", self.logprob, "a finite number, at most 0")
        if self.nucleus is None:
            return
        if self.choice not in self.nucleus or any(a >= b for a, b in pairwise(self.nucleus)):
            allowed = f"ascending token ids, the choice {self.choice} among them"
            raise InvalidField.of(f"{field}.nucleus", self.nucleus, allowed)


_LARGEST_CHOICE = {
    Head.TOKEN: 2**31 - 1,
    Head.GO: 1,
    Head.X: 1023,
    Head.Y: 1023,
    Head.WIDTH: 1023,
    Head.HEIGHT: 1023,
}
_LOGPROB_ROUNDING = 1e-4
"""A float32 log-softmax over a renormalised nucleus may pass 0 by its rounding."""


class FinishReason(StrEnum):
    """Why generation ended: the policy stopped, or a limit (max_tokens, max_objects, context) cut it."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt at a request.

    decisions: everything the policy chose, in order, thinking tokens and the answer separator included; symbols
        that the engine inserts are not there. A rollout cut by a limit has no stop decision.
    thinking_count: how many of the decisions are thinking tokens (before the separator); 0 without reasoning.
    seed: of the sampler's generator for this rollout. temperature, top_p: as sampled.
    """

    skill: Skill
    output: Output
    decisions: tuple[Decision, ...]
    finish_reason: FinishReason
    policy: PolicyVersion
    seed: int
    temperature: float
    top_p: float = 1.0
    thinking_count: int = 0

    @property
    def logprob(self) -> float:
        """Sum over the decisions: log of the probability of the whole rollout."""
        return sum(decision.logprob for decision in self.decisions)

    def choices(self, heads: Sequence[Head]) -> list[int]:
        """The choices of the decisions of these heads, in order."""
        return [decision.choice for decision in self.decisions if decision.head in heads]

    def validate(self, field: str = "rollout") -> None:
        """Raise InvalidField for the first decision or sampling record that no sampler can have made."""
        for index, decision in enumerate(self.decisions):
            decision.validate(f"{field}.decisions[{index}]")
        if not (math.isfinite(self.temperature) and (self.temperature == 0.0 or 0.01 <= self.temperature <= 4.0)):
            raise InvalidField.of(f"{field}.temperature", self.temperature, "0 (greedy) or 0.01 to 4")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidField.of(f"{field}.top_p", self.top_p, "more than 0 and at most 1")
        if not 0 <= self.thinking_count <= len(self.decisions):
            allowed = f"0 to the number of decisions, {len(self.decisions)}"
            raise InvalidField.of(f"{field}.thinking_count", self.thinking_count, allowed)


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """One request with its G rollouts and, where ground truth was given, their rewards (None: the grade failed)."""

    request: SkillRequest
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...] = field(default=())
