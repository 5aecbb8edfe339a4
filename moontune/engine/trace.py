"""The record of running rollouts' decisions: arrays while decoding, `Decision` values once one has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from moontune.engine.rows import Indices, Moves
from moontune.values.rollout import Decision, Head

Nucleus = tuple[int, ...] | None

HEADS = tuple(Head)
"""A head's code is its place here."""

_CODES = {head: code for code, head in enumerate(HEADS)}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One rollout's decisions, in order; nuclei is empty when none was recorded."""

    heads: NDArray[np.int8]
    choices: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    nuclei: tuple[Nucleus, ...] = ()
    stopped: bool = False

    def since(self, start: int) -> "Record":
        """From decision number `start` on."""
        return Record(
            self.heads[start:], self.choices[start:], self.logprobs[start:], self.nuclei[start:], self.stopped
        )

    def decisions(self) -> tuple[Decision, ...]:
        """As values."""
        nuclei = self.nuclei or (None,) * len(self.heads)
        heads = cast("list[int]", self.heads.tolist())
        columns = zip(heads, self.choices.tolist(), self.logprobs.tolist(), nuclei, strict=True)
        return tuple(Decision(HEADS[head], choice, logprob, nucleus) for head, choice, logprob, nucleus in columns)


class Trace:
    """Row by row what was decided; rows move as those of `Rows` do."""

    def __init__(self) -> None:
        """Of no rows."""
        self._lengths = np.zeros(16, dtype=np.int64)
        self._heads = np.zeros((16, 64), dtype=np.int8)
        self._choices = np.zeros((16, 64), dtype=np.int64)
        self._logprobs = np.zeros((16, 64), dtype=np.float32)
        self._nuclei: dict[int, list[Nucleus]] = {}

    def begin(self, first: int, stop: int) -> None:
        """Rows `first` to `stop` - 1 have decided nothing yet."""
        if stop > len(self._lengths):
            rows, columns = 2 * stop, self._heads.shape[1]
            self._lengths = np.resize(self._lengths, rows)
            self._resize(rows, columns)
        self._lengths[first:stop] = 0
        for row in range(first, stop):
            self._nuclei.pop(row, None)

    def add(
        self,
        head: Head,
        rows: Indices,
        choices: NDArray[np.int64],
        logprobs: NDArray[np.float32],
        nuclei: Sequence[Nucleus] = (),
    ) -> None:
        """One decision each of these rows; `nuclei` is empty when no row cuts its distribution."""
        if not len(rows):
            return
        at = self._lengths[rows]
        if at.max() >= self._heads.shape[1]:
            self._resize(len(self._lengths), 2 * self._heads.shape[1])
        self._heads[rows, at] = _CODES[head]
        self._choices[rows, at] = choices
        self._logprobs[rows, at] = logprobs
        self._lengths[rows] = at + 1
        for row, place, nucleus in zip(rows.tolist(), at.tolist(), nuclei, strict=False):
            if nucleus is not None:
                held = self._nuclei.setdefault(row, [])
                held += [None] * (place - len(held)) + [nucleus]

    def record(self, row: int, since: int = 0, *, stopped: bool = False) -> Record:
        """What a row has decided, from its decision number `since` on."""
        length = int(self._lengths[row])
        nuclei = self._nuclei.get(row, [])
        padded = (*nuclei, *(None,) * (length - len(nuclei))) if nuclei else ()
        return Record(
            self._heads[row, since:length].copy(),
            self._choices[row, since:length].copy(),
            self._logprobs[row, since:length].copy(),
            padded[since:],
            stopped,
        )

    def leave(self, moves: Moves) -> None:
        """Close up as the rows did."""
        holes, sources = moves.holes, moves.sources
        self._lengths[holes] = self._lengths[sources]
        width = int(self._lengths[sources].max(initial=0))
        self._heads[holes, :width] = self._heads[sources, :width]
        self._choices[holes, :width] = self._choices[sources, :width]
        self._logprobs[holes, :width] = self._logprobs[sources, :width]
        for hole, source in zip(holes.tolist(), sources.tolist(), strict=True):
            self._nuclei.pop(hole, None)
            if source in self._nuclei:
                self._nuclei[hole] = self._nuclei.pop(source)

    def _resize(self, rows: int, columns: int) -> None:
        for name in ("_heads", "_choices", "_logprobs"):
            old: NDArray[np.generic] = getattr(self, name)
            new = np.zeros((rows, columns), dtype=old.dtype)
            new[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, new)
