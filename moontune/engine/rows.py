"""Where each running rollout stands: one row of a table on the host, always the first `count` rows.

    query, caption:  THINK ──answer id──▶ ANSWER ──eos──▶ DONE          (without reasoning it starts at ANSWER)
    point:           OBJECT ──▶ Y ──▶ OBJECT ...  ──stop──▶ DONE
    detect:          OBJECT ──▶ Y ──▶ SIZE ──▶ OBJECT ...  ──stop──▶ DONE

A step of OBJECT decides go-on and, of the rows that go on, x: both are read at one position. A limit ends a row
without a stop decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moontune.values.request import SkillRequest
from moontune.values.skill import Skill

POINT_POSITIONS, DETECT_POSITIONS = 2, 3
"""Positions that one object takes: x and y; detect has one more for width and height."""

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Phase(IntEnum):
    """What a row decides next."""

    THINK = 0
    ANSWER = 1
    OBJECT = 2
    Y = 3
    SIZE = 4
    DONE = 5


@dataclass(frozen=True, slots=True)
class RowStart:
    """How one rollout begins: `room` is how many positions it may take, after max_tokens and the context."""

    request: SkillRequest
    position: int
    room: int
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """How rows close up after some have gone: row `sources[i]` becomes row `holes[i]`; `count` rows are left."""

    holes: Indices
    sources: Indices
    count: int


_COLUMNS = np.dtype(
    [
        ("phase", np.int8),
        ("position", np.int64),
        ("room", np.int64),
        ("objects", np.int64),
        ("sized", np.bool_),
        ("awaits_y", np.bool_),
        ("stopped", np.bool_),
        ("close", np.bool_),
        ("seed", np.uint64),
        ("step", np.int64),
        ("temperature", np.float32),
        ("top_p", np.float32),
    ]
)


class Rows:
    """The table.

    position: where the row's next input goes. room: positions left. objects: objects left. sized: whether its objects
    have sizes (detect). awaits_y: whether the next coord marker of its reasoning is a y. stopped: whether it ended by
    its own decision. close: whether a greedy choice of it was a close call. step: decision steps taken.
    """

    def __init__(self) -> None:
        """No rows."""
        self.count = 0
        self._table = np.zeros(16, dtype=_COLUMNS)

    def __len__(self) -> int:
        return self.count

    def column(self, name: str) -> NDArray[Any]:
        """A column of the rows there are; writing to it writes to the table."""
        return self._table[name][: self.count]

    @property
    def phase(self) -> NDArray[np.int8]:
        """What each row decides next."""
        return self.column("phase")

    def add(self, starts: Sequence[RowStart]) -> None:
        """Append rows."""
        first, self.count = self.count, self.count + len(starts)
        if self.count > len(self._table):
            self._table = np.resize(self._table, 2 * self.count)
        for index, start in enumerate(starts, first):
            settings = start.request.settings
            self._table[index] = (
                _first_phase(start.request),
                start.position,
                start.room,
                settings.max_objects,
                start.request.skill is Skill.DETECT,
                False,
                False,
                False,
                start.seed,
                0,
                settings.temperature,
                settings.top_p,
            )

    def leave(self, gone: Mask) -> Moves:
        """Drop rows; the last ones take their places."""
        moves = close_up(gone)
        self._table[moves.holes] = self._table[moves.sources]
        self.count = moves.count
        return moves

    def spend(self, rows: Indices) -> None:
        """These rows decided one more position."""
        self.column("room")[rows] -= 1

    def end_token(self, rows: Indices) -> None:
        """After a text token that ends nothing: rows without room are cut."""
        self.spend(rows)
        self.phase[rows[self.column("room")[rows] <= 0]] = Phase.DONE

    def end_object(self, rows: Indices) -> None:
        """After an object's last decision: rows that have no room for another whole object are cut."""
        self.column("objects")[rows] -= 1
        needed = np.where(self.column("sized")[rows], DETECT_POSITIONS, POINT_POSITIONS)
        cut = (self.column("objects")[rows] <= 0) | (self.column("room")[rows] < needed)
        self.phase[rows] = np.where(cut, Phase.DONE, Phase.OBJECT)

    def stop(self, rows: Indices) -> None:
        """These rows ended by their own decision."""
        self.phase[rows] = Phase.DONE
        self.column("stopped")[rows] = True


def close_up(gone: Mask) -> Moves:
    """Fill the places of rows that are gone with the last of those that stay."""
    count = int(len(gone) - gone.sum())
    return Moves(np.flatnonzero(gone[:count]), count + np.flatnonzero(~gone[count:]), count)


def least_room(skill: Skill) -> int:
    """Positions that the shortest useful answer takes: one object, or one token."""
    return {Skill.DETECT: DETECT_POSITIONS, Skill.POINT: POINT_POSITIONS}.get(skill, 1)


def _first_phase(request: SkillRequest) -> Phase:
    if request.skill in (Skill.POINT, Skill.DETECT):
        return Phase.OBJECT
    return Phase.THINK if request.reasoning else Phase.ANSWER
