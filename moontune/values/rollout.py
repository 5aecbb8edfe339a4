"""A rollout is the sequence of decisions that a policy took; an action is never only a token."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """One request with its G rollouts and, where ground truth was given, their rewards (None: the grade failed)."""

    request: SkillRequest
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...] = field(default=())
