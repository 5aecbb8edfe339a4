"""Where a rollout's decisions sit: what is fed after the prompt, and at which position each decision is read.

Offset 0 is the prompt's last position, offset k the position of the k-th input after it.

- A token is read, then fed, except the coord marker inside reasoning: its bin is read at the same position, and the
  coordinate is fed in its place.
- GO is read and nothing is fed; x is read at that same position and fed; y likewise one further. Point then reads the
  next GO there. Detect reads width and height at one position and feeds them together; the next GO is read there.
- After reasoning the answer separator is fed whether the policy chose it or a limit forced it; only a chosen one is a
  decision.

Rollouts come back from callers, so the order of heads and the range of choices are checked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from moontune.errors import InvalidField
from moontune.model.config import MoondreamConfig
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill


class Phase(IntEnum):
    """Which ids a token decision may take; see `suppressed_ids`."""

    ANSWER = 0
    THINKING = 1


class InputKind(IntEnum):
    """What an input is: a token id, a coordinate bin, or a width bin and a height bin."""

    TOKEN = 0
    COORD = 1
    SIZE = 2


@dataclass(frozen=True, slots=True)
class Input:
    """One position fed to the model; `second` is the height bin of a size."""

    kind: InputKind
    first: int
    second: int = 0


@dataclass(frozen=True, slots=True)
class DecisionLayout:
    """inputs: fed in order; those after the last read are left out. reads, phases: one per decision."""

    inputs: tuple[Input, ...]
    reads: tuple[int, ...]
    phases: tuple[Phase, ...]


def suppressed_ids(phase: Phase, config: MoondreamConfig) -> tuple[int, ...]:
    """Ids that are never sampled: the separator while answering; end of text and sizes while thinking."""
    special = config.tokenizer
    return (special.answer_id,) if phase is Phase.ANSWER else (special.eos_id, special.size_id)


def layout(
    skill: Skill,
    decisions: Sequence[Decision],
    config: MoondreamConfig,
    *,
    reasoning: bool = False,
    thinking_count: int = 0,
    field: str = "rollout",
) -> DecisionLayout:
    """Lay out a rollout's decisions; raises InvalidField, naming the decision, when no policy could have taken them."""
    if skill in (Skill.QUERY, Skill.CAPTION):
        walk = _TextWalk(config, field)
        walk.run(decisions, reasoning, thinking_count)
    else:
        walk = _ObjectWalk(config, field)
        walk.run(decisions, (Head.X, Head.Y, Head.WIDTH, Head.HEIGHT) if skill is Skill.DETECT else (Head.X, Head.Y))
    used = max(walk.reads, default=0)
    return DecisionLayout(tuple(walk.inputs[:used]), tuple(walk.reads), tuple(walk.phases))


class _Walk:
    """Builds a layout decision by decision."""

    def __init__(self, config: MoondreamConfig, field: str) -> None:
        self.config, self.field = config, field
        self.inputs: list[Input] = []
        self.reads: list[int] = []
        self.phases: list[Phase] = []

    def read(self, decision: Decision, phase: Phase = Phase.ANSWER) -> None:
        index = len(self.reads)
        count = {Head.TOKEN: self.config.text.vocab_size, Head.GO: 2}.get(decision.head, self.config.region.bins)
        if not 0 <= decision.choice < count:
            raise InvalidField.of(f"{self.field}.decisions[{index}].choice", decision.choice, f"0 to {count - 1}")
        if decision.nucleus is not None and decision.choice not in decision.nucleus:
            raise InvalidField.of(
                f"{self.field}.decisions[{index}].nucleus", decision.nucleus, f"a set with the choice {decision.choice}"
            )
        self.reads.append(len(self.inputs))
        self.phases.append(phase)

    def expect(self, decision: Decision, heads: tuple[Head, ...]) -> None:
        if decision.head not in heads:
            allowed = f"{' or '.join(heads)} at this place" if heads else "nothing after the rollout's end"
            raise InvalidField.of(f"{self.field}.decisions[{len(self.reads)}].head", str(decision.head), allowed)


class _ObjectWalk(_Walk):
    """GO, then the numbers of one object, again and again until GO says stop or a limit cuts."""

    def run(self, decisions: Sequence[Decision], numbers: tuple[Head, ...]) -> None:
        cycle, at = (Head.GO, *numbers), 0
        for index, decision in enumerate(decisions):
            self.expect(decision, (cycle[at],) if at >= 0 else ())
            self.read(decision)
            if decision.head in (Head.X, Head.Y):
                self.inputs.append(Input(InputKind.COORD, decision.choice))
            elif decision.head is Head.HEIGHT:
                self.inputs.append(Input(InputKind.SIZE, decisions[index - 1].choice, decision.choice))
            stopped = decision.head is Head.GO and decision.choice == 0
            at = -1 if stopped else (at + 1) % len(cycle)
        if at >= 0 and cycle[at] is Head.HEIGHT:
            given = f"{len(decisions)} decisions"
            raise InvalidField.of(f"{self.field}.decisions", given, "a height after each width: both are one step")


class _TextWalk(_Walk):
    """Tokens; while thinking, a coord marker may be followed by its bin."""

    def run(self, decisions: Sequence[Decision], reasoning: bool, thinking_count: int) -> None:
        most = len(decisions) if reasoning else 0
        if not 0 <= thinking_count <= most:
            raise InvalidField.of(f"{self.field}.thinking_count", thinking_count, f"0 to {most}")
        self._think(decisions[:thinking_count])
        answer = list(decisions[thinking_count:])
        separator = self.config.tokenizer.answer_id
        if reasoning and answer:
            if answer[0].head is Head.TOKEN and answer[0].choice == separator:
                self.read(answer.pop(0), Phase.THINKING)
            self.inputs.append(Input(InputKind.TOKEN, separator))
        ended = False
        for decision in answer:
            self.expect(decision, () if ended else (Head.TOKEN,))
            self._take(decision, Phase.ANSWER)
            ended = decision.choice == self.config.tokenizer.eos_id
            self.inputs.append(Input(InputKind.TOKEN, decision.choice))

    def _think(self, thoughts: Sequence[Decision]) -> None:
        axes = (Head.X, Head.Y)
        marker, axis = False, 0
        for index, decision in enumerate(thoughts):
            self.expect(decision, (axes[axis],) if marker else (Head.TOKEN,))
            self._take(decision, Phase.THINKING)
            if marker:
                self.inputs.append(Input(InputKind.COORD, decision.choice))
                marker, axis = False, 1 - axis
                continue
            follows = thoughts[index + 1] if index + 1 < len(thoughts) else None
            marker = decision.choice == self.config.tokenizer.coord_id and follows is not None
            if not marker:
                self.inputs.append(Input(InputKind.TOKEN, decision.choice))

    def _take(self, decision: Decision, phase: Phase) -> None:
        if decision.head is Head.TOKEN and decision.choice in suppressed_ids(phase, self.config):
            allowed = "an id that this part of the rollout can sample"
            raise InvalidField.of(f"{self.field}.decisions[{len(self.reads)}].choice", decision.choice, allowed)
        self.read(decision, phase)
