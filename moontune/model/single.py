"""One request, one row: the plain loop that the engine runs for many rows at once.

It is what a model is checked with (parity, conformance, benchmarks at batch 1), short enough to be compared by eye
with upstream's. Choices go through `sampling`, places through `decisions`, like the engine's.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.model import sampling
from moontune.model.config import GoOn
from moontune.model.conventions import OURS, Conventions
from moontune.model.decisions import Input, InputKind, Phase
from moontune.model.family import Family
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class Generated:
    """A rollout's decisions, how many of them are thinking, and how it ended."""

    decisions: tuple[Decision, ...]
    thinking_count: int
    finish_reason: FinishReason


@torch.no_grad()
def generate(
    family: Family,
    request: SkillRequest,
    image_PD: Tensor | None = None,
    *,
    seed: int = 0,
    conventions: Conventions = OURS,
    on_decision: Callable[[Decision], None] | None = None,
) -> Generated:
    """Answer a validated request; the same seed gives the same rollout, greedy where the temperature is 0.

    image_PD: the image's tokens, None without one. max_tokens bounds thinking and answer apart. on_decision: called
    with each decision as it is taken.
    """
    row = _Row(family, request, image_PD, seed, conventions, on_decision)
    if request.skill in (Skill.DETECT, Skill.POINT):
        stopped = row.find(sized=request.skill is Skill.DETECT)
        return Generated(tuple(row.decisions), 0, FinishReason.STOP if stopped else FinishReason.LENGTH)
    thinking = 0
    if request.reasoning:
        stopped = row.say(Phase.THINKING)
        thinking = len(row.decisions) - stopped
        row.feed(Input(InputKind.TOKEN, family.special.answer_id))
    stopped = row.say(Phase.ANSWER)
    return Generated(tuple(row.decisions), thinking, FinishReason.STOP if stopped else FinishReason.LENGTH)


class _Row:
    """Where one rollout stands, and the decisions it took."""

    def __init__(
        self,
        family: Family,
        request: SkillRequest,
        image_PD: Tensor | None,
        seed: int,
        conventions: Conventions,
        on_decision: Callable[[Decision], None] | None,
    ) -> None:
        self.family, self.settings, self.conventions = family, request.settings, conventions
        self.decisions: list[Decision] = []
        self._tell = on_decision
        self._ready = family.prefill([image_PD], [family.prompt(request)])
        self._left = family.max_context - int(self._ready.positions_B)
        self._dice = random.Random(seed)
        self._heat = torch.tensor([self.settings.temperature], device=family.device)
        self._top_p = torch.tensor([self.settings.top_p], device=family.device)

    def say(self, phase: Phase) -> bool:
        """Decide and feed tokens until the phase's end, which is not fed; True when it came before the limit."""
        special = self.family.special
        end, axis = special.eos_id if phase is Phase.ANSWER else special.answer_id, 0
        for count in range(self.settings.max_tokens):
            if self._left < 1:
                return False
            free = self.conventions.free_first and count == 0
            token = self.decide(Head.TOKEN, () if free else self.family.suppressed(phase))
            if token == end:
                return True
            if phase is Phase.THINKING and token == special.coord_id:
                self.feed(Input(InputKind.COORD, self.decide((Head.X, Head.Y)[axis])))
                axis = 1 - axis
            else:
                self.feed(Input(InputKind.TOKEN, token))
        return False

    def find(self, sized: bool) -> bool:
        """Decide and feed objects until the model says stop; True when it came before the limit."""
        positions = 3 if sized else 2
        most = min(self.settings.max_objects, self.settings.max_tokens // positions)
        for count in range(most):
            if self._left < positions:
                return False
            if not self._go_on(free=self.conventions.free_first and count == 0):
                return True
            for axis in (Head.X, Head.Y):
                self.feed(Input(InputKind.COORD, self.decide(axis)))
            if sized:
                width = self.decide(Head.WIDTH)
                self.feed(Input(InputKind.SIZE, width, self.decide(Head.HEIGHT)))
        return False

    def decide(self, head: Head, suppressed: Sequence[int] = (), go_on: GoOn | None = None) -> int:
        """Choose, record, and return the choice."""
        logits_1K = self.family.head_logits(head, self._ready.hidden_BD, go_on)
        allowed_1K = None
        if suppressed:
            allowed_1K = torch.ones_like(logits_1K, dtype=torch.bool)
            allowed_1K[:, list(suppressed)] = False
        decision = self._greedy(head, logits_1K, allowed_1K) or self._drawn(head, logits_1K, allowed_1K)
        self.decisions.append(decision)
        if self._tell is not None:
            self._tell(decision)
        return decision.choice

    def feed(self, item: Input) -> None:
        """Run one more position."""
        self._ready = self.family.step(self._ready, [item], self.conventions)
        self._left -= 1

    def _go_on(self, free: bool) -> bool:
        return bool(self.decide(Head.GO, go_on=GoOn.ANY_TOKEN if free else None))

    def _greedy(self, head: Head, logits_1K: Tensor, allowed_1K: Tensor | None) -> Decision | None:
        if self.settings.temperature > 0:
            return None
        masked_1K = logits_1K if allowed_1K is None else logits_1K.masked_fill(~allowed_1K, sampling.NEVER)
        return Decision(head, int(masked_1K.argmax(dim=-1)), 0.0)

    def _drawn(self, head: Head, logits_1K: Tensor, allowed_1K: Tensor | None) -> Decision:
        uniform_1 = torch.tensor([self._dice.random()], dtype=torch.float64, device=self.family.device)
        top_p_1 = self._top_p if head is Head.TOKEN else None
        drawn = sampling.sample(logits_1K, self._heat, uniform_1, allowed_1K, top_p_1)
        return Decision(head, int(drawn.choices_N), float(drawn.log_probs_N), drawn.nuclei[0])
