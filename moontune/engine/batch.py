"""The running batch: all rows take one decision step together, whatever their skill and adapter; rows come and go.

    join ──▶ decide (heads, draws, record) ──▶ leave (rows that ended) ──▶ feed (one pass of all that go on) ──▶ decide

Control (which row decides what next) is on the host, over arrays; logits, draws and embeddings are on the device. There
is no Python per row, but for rows that end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from moontune.engine.device_adapters import DeviceAdapters
from moontune.engine.draws import Draws
from moontune.engine.entry import Entry
from moontune.engine.kv_pool import KvPool, PrefixKv
from moontune.engine.rows import Indices, Mask, Phase, Rows, RowStart
from moontune.engine.scheduler import Longest
from moontune.engine.trace import Record, Trace
from moontune.model import decisions, sampling
from moontune.model.moondream import Moondream
from moontune.values.rollout import Head


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """Whose row it is: the order and which of its rollouts. adapter: digest, "" for none; own_region: acts there."""

    owner: Entry
    rollout: int
    adapter: str
    own_region: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """A row that has left: what it decided, and whether a greedy choice of it was a close call."""

    member: Member
    record: Record
    close: bool


class Batch:
    """Rows, their keys and values, and the hidden state [B, D] from which each row's next decision is read."""

    def __init__(self, model: Moondream, adapters: DeviceAdapters, ahead_bytes: int) -> None:
        """No rows yet. ahead_bytes: how far memory may grow ahead of need; need itself is the scheduler's."""
        self.rows = Rows()
        self.trace = Trace()
        self.members: list[Member] = []
        self.owners: dict[Entry, None] = {}
        self.kv = KvPool(model.config.text, model.dtype, model.device, ahead_bytes)
        self._model, self._adapters = model, adapters
        self._special = model.config.tokenizer
        self._allowed_PV = sampling.allowed_tokens(list(decisions.Phase), model.config, model.device)
        self._no_mask = torch.zeros(0, device=model.device)
        self._last_BD = torch.zeros(0, model.config.text.dim, dtype=model.dtype, device=model.device)

    def __len__(self) -> int:
        return len(self.members)

    def join(self, prefix: PrefixKv, starts: Sequence[RowStart], members: Sequence[Member], longest: Longest) -> None:
        """Rows that all begin behind one prefix. longest: what rows and prefixes of the pool must have room for."""
        first, count = len(self), len(starts)
        self.kv.join(prefix, count, longest.room, longest.prefix)
        self.rows.add(starts)
        self.trace.begin(first, first + count)
        self.members += members
        self.owners.update(dict.fromkeys(member.owner for member in members))
        self._last_BD = torch.cat((self._last_BD, prefix.hidden_D.expand(count, -1)))

    def step(self) -> list[Ended]:
        """One decision of every row, and the pass that makes the next one possible; who ended, by itself or cut."""
        embeds_BD = self._decide()
        gone = self.rows.phase == Phase.DONE
        ended: list[Ended] = []
        if gone.any():
            ended = self._ended(gone)
            embeds_BD = embeds_BD[self._leave(gone)]
        if self.members:
            self._feed(embeds_BD)
        return ended

    def drop(self, owner: Entry) -> None:
        """Let go of the rows of an order that nobody wants any more."""
        gone = np.array([member.owner is owner for member in self.members], dtype=bool)
        if gone.any():
            self._leave(gone)

    def told(self, owner: Entry, since: int) -> Record | None:
        """What the first running rollout of an order has decided, from its decision number `since` on."""
        row = next((row for row, member in enumerate(self.members) if member.owner is owner), None)
        return None if row is None else self.trace.record(row, since)

    def _decide(self) -> Tensor:
        """Read, draw and record; the embeddings [B, D] to feed next, anything for rows that ended."""
        rows, phase = self.rows, self.rows.phase.copy()
        draws = Draws(self._model, rows, self._last_BD, self._allowed_PV, self._act_on_region)
        thinks, answers, objects, ys, sizes = (np.flatnonzero(phase == each) for each in list(Phase)[:5])
        draws.read(thinks, answers, objects, ys, sizes)
        rows.column("step")[:] += 1
        if len(thinks) or len(answers):
            self._after_tokens(draws, thinks, answers)
        if len(objects):
            self._after_objects(draws, objects)
        if len(ys):
            self._after_ys(draws, ys)
        if len(sizes):
            self._after_sizes(draws, sizes)
        return draws.embeddings()

    def _after_tokens(self, draws: Draws, thinks: Indices, answers: Indices) -> None:
        """Thinking ends with the separator, an answer with the end of text; a coord marker has its bin at once."""
        rows, drawn = np.concatenate((thinks, answers)), draws.tokens
        self.trace.add(Head.TOKEN, rows, drawn.choices, drawn.logprobs, drawn.nuclei)
        thought, said = drawn.choices[: len(thinks)], drawn.choices[len(thinks) :]
        self.rows.phase[thinks[thought == self._special.answer_id]] = Phase.ANSWER
        self.rows.end_token(rows)
        self.rows.stop(answers[said == self._special.eos_id])
        if (marks := thought == self._special.coord_id).any():
            self._ground(draws, thinks[marks])

    def _ground(self, draws: Draws, rows: Indices) -> None:
        """The bin behind a coord marker, fed in its place; a row's markers mean x and y in turn."""
        drawn = draws.ground(rows)
        is_y = self.rows.column("awaits_y")[rows]
        self.trace.add(Head.X, rows[~is_y], drawn.choices[~is_y], drawn.logprobs[~is_y])
        self.trace.add(Head.Y, rows[is_y], drawn.choices[is_y], drawn.logprobs[is_y])
        self.rows.column("awaits_y")[rows] = ~is_y

    def _after_objects(self, draws: Draws, objects: Indices) -> None:
        """Stop, or one more object and its x: both were read at this position."""
        self.trace.add(Head.GO, objects, draws.goes.choices, draws.goes.logprobs)
        on = draws.goes.choices == 1
        self.trace.add(Head.X, objects[on], draws.xs.choices[on], draws.xs.logprobs[on])
        self.rows.stop(objects[~on])
        self.rows.phase[objects[on]] = Phase.Y
        self.rows.spend(objects[on])

    def _after_ys(self, draws: Draws, ys: Indices) -> None:
        """The object's y; a point ends here."""
        self.trace.add(Head.Y, ys, draws.ys.choices, draws.ys.logprobs)
        self.rows.spend(ys)
        sized = self.rows.column("sized")[ys]
        self.rows.phase[ys[sized]] = Phase.SIZE
        self.rows.end_object(ys[~sized])

    def _after_sizes(self, draws: Draws, sizes: Indices) -> None:
        """The object's width and height, read at one position and fed back as one."""
        self.trace.add(Head.WIDTH, sizes, draws.widths.choices, draws.widths.logprobs)
        self.trace.add(Head.HEIGHT, sizes, draws.heights.choices, draws.heights.logprobs)
        self.rows.spend(sizes)
        self.rows.end_object(sizes)

    def _ended(self, gone: Mask) -> list[Ended]:
        stopped, close = self.rows.column("stopped"), self.rows.column("close")
        return [
            Ended(self.members[row], self.trace.record(row, stopped=bool(stopped[row])), bool(close[row]))
            for row in np.flatnonzero(gone).tolist()
        ]

    def _leave(self, gone: Mask) -> Tensor:
        """Close up; the row that each of those left had before."""
        moves = self.rows.leave(gone)
        self.trace.leave(moves)
        self.kv.leave(moves)
        order = np.arange(moves.count)
        order[moves.holes] = moves.sources
        self.members = [self.members[row] for row in order.tolist()]
        self.owners = dict.fromkeys(member.owner for member in self.members)
        before = torch.from_numpy(order).to(self._model.device)
        self._last_BD = self._last_BD[before]
        return before

    def _feed(self, embeds_BD: Tensor) -> None:
        """One new position of every row."""
        position = self.rows.column("position")
        positions_B = torch.from_numpy(position.copy()).to(self._model.device)
        self.kv.begin(position)
        self._adapters.act(tuple(member.adapter for member in self.members))
        hidden_B1D = self._model.hidden(embeds_BD[:, None], positions_B[:, None], self._no_mask, self.kv)
        self._last_BD = hidden_B1D[:, 0]
        position += 1

    def _act_on_region(self, rows: Indices) -> None:
        """Let the adapters of these rows, and no others, act on the region head."""
        if not any(member.own_region for member in self.members):
            self._adapters.rest_from_region()
        else:
            self._adapters.act(tuple([self.members[row].adapter for row in cast("list[int]", rows.tolist())]))
