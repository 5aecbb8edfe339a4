"""One request, one row: the plain loop that the engine runs for many rows at once.

It is what a model is checked with (parity, conformance, benchmarks at batch 1), short enough to be compared by eye
with upstream's. Choices go through `sampling`, places through `decisions`, like the engine's.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.model import inputs, sampling
from moontune.model.config import GoOn
from moontune.model.conventions import OURS, Conventions
from moontune.model.decisions import Input, InputKind, Phase
from moontune.model.moondream import Moondream
from moontune.model.prompt import Prompt
from moontune.model.scoring import head_logits
from moontune.values.rollout import Decision, FinishReason, Head
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class Generated:
    """A rollout's decisions, how many of them are thinking, and how it ended."""

    decisions: tuple[Decision, ...]
    thinking_count: int
    finish_reason: FinishReason


@torch.no_grad()
def generate(
    model: Moondream,
    image_PD: Tensor | None,
    prompt: Prompt,
    skill: Skill,
    settings: SamplingSettings,
    *,
    reasoning: bool = False,
    seed: int = 0,
    conventions: Conventions = OURS,
    on_decision: Callable[[Decision], None] | None = None,
) -> Generated:
    """Answer one prompt; the same seed gives the same rollout. max_tokens bounds thinking and answer apart.

    on_decision: called with each decision as it is taken. Greedy where the temperature is 0.
    """
    row = _Row(model, image_PD, prompt, settings, seed, conventions, on_decision)
    if skill in (Skill.DETECT, Skill.POINT):
        stopped = row.find(sized=skill is Skill.DETECT)
        return Generated(tuple(row.decisions), 0, FinishReason.STOP if stopped else FinishReason.LENGTH)
    thinking = 0
    if reasoning:
        stopped = row.say(Phase.THINKING)
        thinking = len(row.decisions) - stopped
        row.feed(Input(InputKind.TOKEN, model.config.tokenizer.answer_id))
    stopped = row.say(Phase.ANSWER)
    return Generated(tuple(row.decisions), thinking, FinishReason.STOP if stopped else FinishReason.LENGTH)


class _Row:
    """Cache, last hidden state and position of one rollout, and the decisions it took."""

    def __init__(
        self,
        model: Moondream,
        image_PD: Tensor | None,
        prompt: Prompt,
        settings: SamplingSettings,
        seed: int,
        conventions: Conventions,
        on_decision: Callable[[Decision], None] | None,
    ) -> None:
        self.model, self.settings, self.conventions = model, settings, conventions
        self.decisions: list[Decision] = []
        self._tell = on_decision
        ready = inputs.prefill(model, [image_PD], [prompt])
        self._cache, self._hidden_1D, self._at = ready.cache, ready.hidden_BD, int(ready.positions_B)
        self._dice = random.Random(seed)
        self._heat = torch.tensor([settings.temperature], device=model.device)
        self._top_p = torch.tensor([settings.top_p], device=model.device)
        self._allowed = {phase: sampling.allowed_tokens([phase], model.config, model.device) for phase in Phase}

    def say(self, phase: Phase) -> bool:
        """Decide and feed tokens until the phase's end, which is not fed; True when it came before the limit."""
        special = self.model.config.tokenizer
        end, axis = special.eos_id if phase is Phase.ANSWER else special.answer_id, 0
        for count in range(self.settings.max_tokens):
            if self._full():
                return False
            free = self.conventions.free_first and count == 0
            token = self.decide(Head.TOKEN, None if free else self._allowed[phase])
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
        most = min(self.settings.max_objects, self.settings.max_tokens // (3 if sized else 2))
        for count in range(most):
            if self._full(3):
                return False
            if not self._go_on(free=self.conventions.free_first and count == 0):
                return True
            for axis in (Head.X, Head.Y):
                self.feed(Input(InputKind.COORD, self.decide(axis)))
            if sized:
                width = self.decide(Head.WIDTH)
                self.feed(Input(InputKind.SIZE, width, self.decide(Head.HEIGHT)))
        return False

    def decide(self, head: Head, allowed_1K: Tensor | None = None, logits_1K: Tensor | None = None) -> int:
        """Choose, record, and return the choice."""
        logits_1K = head_logits(self.model, head, self._hidden_1D) if logits_1K is None else logits_1K
        if self.settings.temperature == 0:
            masked_1K = logits_1K if allowed_1K is None else logits_1K.masked_fill(~allowed_1K, sampling.NEVER)
            decision = Decision(head, int(masked_1K.argmax(dim=-1)), 0.0)
        else:
            uniform_1 = torch.tensor([self._dice.random()], dtype=torch.float64, device=self.model.device)
            top_p_1 = self._top_p if head is Head.TOKEN else None
            drawn = sampling.sample(logits_1K, self._heat, uniform_1, allowed_1K, top_p_1)
            decision = Decision(head, int(drawn.choices_N), float(drawn.log_probs_N), drawn.nuclei[0])
        self.decisions.append(decision)
        if self._tell is not None:
            self._tell(decision)
        return decision.choice

    def feed(self, item: Input) -> None:
        """Run one more position."""
        embeds_1D = inputs.embed_inputs(self.model, [item], self.conventions.decoding)
        position_11 = torch.tensor([[self._at]], device=self.model.device)
        self._hidden_1D = self.model.hidden(embeds_1D[None], position_11, cache=self._cache)[:, -1]
        self._at += 1

    def _go_on(self, free: bool) -> bool:
        logits_12 = self.model.go_logits(self._hidden_1D, GoOn.ANY_TOKEN) if free else None
        return bool(self.decide(Head.GO, logits_1K=logits_12))

    def _full(self, needed: int = 1) -> bool:
        return self._at + needed > self.model.config.text.max_context
