"""Log-probabilities of decisions already taken, with gradients: what the learner trains on.

Prefix and prompt of a group are run once; its completions follow in the same row as segments that do not see each
other. Rows of different groups are padded to one batch. The arithmetic of a decision is `sampling.log_distribution`,
the sampler's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moontune.errors import InvalidField
from moontune.model import inputs
from moontune.model.config import GoOn
from moontune.model.decisions import DecisionLayout, layout
from moontune.model.moondream import Moondream
from moontune.model.prompt import Prompt
from moontune.model.sampling import allowed_tokens, entropy, log_distribution
from moontune.values.rollout import Decision, Head, Rollout
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class ScoringRollout:
    """Decisions to score, at the temperature they were sampled with; recorded nuclei are used as recorded."""

    decisions: tuple[Decision, ...]
    temperature: float = 1.0
    thinking_count: int = 0

    @classmethod
    def of(cls, rollout: Rollout) -> "ScoringRollout":
        """What matters of a rollout."""
        return cls(rollout.decisions, rollout.temperature, rollout.thinking_count)


@dataclass(frozen=True, slots=True, eq=False)
class ScoringGroup:
    """One prompt and its rollouts. image_embeds_PD: image tokens, with or without gradient; None for text only."""

    skill: Skill
    prompt: Prompt
    rollouts: tuple[ScoringRollout, ...]
    image_embeds_PD: Tensor | None = None
    reasoning: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBatch:
    """All decisions of all groups in order, M of them.

    logprobs_M: with gradients. entropies_M: in nats, without. spans[g][r]: the slice of group g's rollout r.
    distributions: of the heads other than TOKEN, when asked for: indices into M, and log-probabilities [n, K] with
    gradients, for exact divergences.
    """

    logprobs_M: Tensor
    entropies_M: Tensor
    spans: tuple[tuple[slice, ...], ...]
    distributions: Mapping[Head, tuple[Tensor, Tensor]]

    def part(self, start: int, stop: int) -> "ScoredBatch":
        """The decisions start..stop as a batch of their own, without spans."""
        inside = {
            head: (at_N[kept_N] - start, logprobs_NK[kept_N])
            for head, (at_N, logprobs_NK) in self.distributions.items()
            if bool((kept_N := (at_N >= start) & (at_N < stop)).any())
        }
        return ScoredBatch(self.logprobs_M[start:stop], self.entropies_M[start:stop], (), inside)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """Completions that share one row: embeddings, segment numbers and positions of it, and where decisions read."""

    embeds_TD: Tensor
    segments_T: Tensor
    positions_T: Tensor
    reads: list[int]


@dataclass(slots=True, eq=False)
class _Flat:
    """The M decisions, flat; `rows` and `columns` say where each reads the hidden states."""

    decisions: list[Decision]
    layouts: list[DecisionLayout]
    temperatures: list[float]
    spans: list[tuple[slice, ...]]


def score_groups(
    model: Moondream, groups: Sequence[ScoringGroup], *, distributions: bool = False, row_tokens: int = 4096
) -> ScoredBatch:
    """Score every decision of the groups in one forward pass.

    row_tokens: a group whose completions together are longer is spread over several rows (each runs the prompt
    again). Raises InvalidField naming `groups[g].rollouts[r]` for decisions that no policy could have taken or a
    temperature of 0.
    """
    flat = _flatten(model, groups)
    rows = _pack(model, groups, flat, row_tokens)
    embeds_BTD = pad_sequence([row.embeds_TD for row in rows], batch_first=True)
    segments_BT = pad_sequence([row.segments_T for row in rows], batch_first=True, padding_value=inputs.PADDING)
    positions_BT = pad_sequence([row.positions_T for row in rows], batch_first=True)
    hidden_BTD = model.hidden(embeds_BTD, positions_BT, inputs.segment_mask(segments_BT))
    at_rows = [index for index, row in enumerate(rows) for _ in row.reads]
    at_columns = [column for row in rows for column in row.reads]
    device = model.device
    hidden_MD = hidden_BTD[torch.tensor(at_rows, device=device), torch.tensor(at_columns, device=device)]
    return _read_heads(model, hidden_MD, flat, distributions)


def _flatten(model: Moondream, groups: Sequence[ScoringGroup]) -> _Flat:
    flat = _Flat([], [], [], [])
    for g, group in enumerate(groups):
        spans: list[slice] = []
        for r, rollout in enumerate(group.rollouts):
            field = f"groups[{g}].rollouts[{r}]"
            if not rollout.temperature > 0:
                raise InvalidField.of(f"{field}.temperature", rollout.temperature, "more than 0: greedy has no odds")
            flat.layouts.append(
                layout(
                    group.skill,
                    rollout.decisions,
                    model.config,
                    reasoning=group.reasoning,
                    thinking_count=rollout.thinking_count,
                    field=field,
                )
            )
            spans.append(slice(len(flat.decisions), len(flat.decisions) + len(rollout.decisions)))
            flat.decisions.extend(rollout.decisions)
            flat.temperatures.extend([rollout.temperature] * len(rollout.decisions))
        flat.spans.append(tuple(spans))
    if not flat.decisions:
        raise InvalidField.of("groups", f"{len(groups)} groups without a decision", "at least one decision to score")
    return flat


def _pack(model: Moondream, groups: Sequence[ScoringGroup], flat: _Flat, row_tokens: int) -> list[_Row]:
    rows: list[_Row] = []
    layouts = iter(flat.layouts)
    for group in groups:
        prefix_TD = inputs.embed_prefix(model, group.image_embeds_PD)
        shared_TD = torch.cat((prefix_TD, inputs.embed_prompt(model, group.prompt)))
        pending: list[DecisionLayout] = []
        for _ in group.rollouts:
            following = next(layouts)
            tokens = len(shared_TD) + sum(len(item.inputs) for item in (*pending, following))
            if pending and tokens > row_tokens:
                rows.append(_row(model, shared_TD, len(prefix_TD), pending))
                pending = []
            pending.append(following)
        if pending:
            rows.append(_row(model, shared_TD, len(prefix_TD), pending))
    return rows


def _row(model: Moondream, shared_TD: Tensor, prefix: int, layouts: Sequence[DecisionLayout]) -> _Row:
    shared = len(shared_TD)
    segments = [inputs.PREFIX] * prefix + [inputs.PROMPT] * (shared - prefix)
    positions = list(range(shared))
    reads: list[int] = []
    for index, item in enumerate(layouts):
        start = len(positions)
        reads.extend(shared - 1 if offset == 0 else start + offset - 1 for offset in item.reads)
        segments += [inputs.COMPLETION + index] * len(item.inputs)
        positions += range(shared, shared + len(item.inputs))
    fed = [given for item in layouts for given in item.inputs]
    embeds_TD = torch.cat((shared_TD, inputs.embed_inputs(model, fed))) if fed else shared_TD
    device = model.device
    return _Row(embeds_TD, torch.tensor(segments, device=device), torch.tensor(positions, device=device), reads)


def _read_heads(model: Moondream, hidden_MD: Tensor, flat: _Flat, distributions: bool) -> ScoredBatch:
    device = hidden_MD.device
    temperature_M = torch.tensor(flat.temperatures, device=device)
    choice_M = torch.tensor([decision.choice for decision in flat.decisions], device=device)
    logprobs_M = torch.zeros(len(flat.decisions), device=device)
    entropies_M = torch.zeros(len(flat.decisions), device=device)
    kept: dict[Head, tuple[Tensor, Tensor]] = {}
    sizes_N2K = torch.empty(0, device=device)
    for head in Head:
        at = [index for index, decision in enumerate(flat.decisions) if decision.head is head]
        if not at:
            continue
        at_N = torch.tensor(at, device=device)
        allowed_NV = None
        if head is Head.TOKEN:
            phases = [phase for item in flat.layouts for phase in item.phases]
            nuclei = [flat.decisions[index].nucleus for index in at]
            allowed_NV = allowed_tokens([phases[index] for index in at], model.config, device, nuclei)
        if head is Head.HEIGHT:  # every height is read where its width is: the same logits, the other half
            logits_NK = sizes_N2K[:, 1]
        elif head is Head.WIDTH:
            sizes_N2K = model.size_logits(hidden_MD[at_N])
            logits_NK = sizes_N2K[:, 0]
        else:
            logits_NK = head_logits(model, head, hidden_MD[at_N])
        log_probs_NK = log_distribution(logits_NK, temperature_M[at_N], allowed_NV)
        chosen_N = log_probs_NK.gather(-1, choice_M[at_N].unsqueeze(-1)).squeeze(-1)
        logprobs_M = logprobs_M.index_put((at_N,), chosen_N)
        with torch.no_grad():
            entropies_M[at_N] = entropy(log_probs_NK)
        if distributions and head is not Head.TOKEN:
            kept[head] = (at_N, log_probs_NK)
    return ScoredBatch(logprobs_M, entropies_M, tuple(flat.spans), kept)


def head_logits(model: Moondream, head: Head, hidden_ND: Tensor, go_on: GoOn | None = None) -> Tensor:
    """fp32 logits [N, K] of one head at hidden states [N, D]. go_on: of GO; None is the base's own rule."""
    if head is Head.TOKEN:
        return model.token_logits(hidden_ND)
    if head is Head.GO:
        return model.go_logits(hidden_ND, go_on)
    if head in (Head.X, Head.Y):
        return model.coord_logits(hidden_ND)
    return model.size_logits(hidden_ND)[:, 0 if head is Head.WIDTH else 1]
