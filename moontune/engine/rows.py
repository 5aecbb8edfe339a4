"""Where each row of a batch stands: arrays on the host, one element per row.

    query, caption:  THINK ──answer id──▶ ANSWER ──eos──▶ DONE          (without reasoning it starts at ANSWER)
    point:           OBJECT ──▶ Y ──▶ OBJECT ...  ──stop──▶ DONE
    detect:          OBJECT ──▶ Y ──▶ SIZE ──▶ OBJECT ...  ──stop──▶ DONE

A step of OBJECT decides go-on and, of the rows that go on, x: both are read at one position. A limit ends a row
without a stop decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from moontune.values.request import SkillRequest
from moontune.values.skill import Skill

POINT_POSITIONS, DETECT_POSITIONS = 2, 3
"""Positions that one object takes: x and y; detect has one more for width and height."""


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


class Rows:
    """State of the rows of a batch.

    sequence: index of the row's rollout among all that started. position: where its next input goes. room: positions
    left. objects: objects left. sized: whether its objects have sizes (detect). awaits_y: whether the next coord
    marker of its reasoning is a y.
    """

    def __init__(self, starts: Sequence[RowStart]) -> None:
        """Rows in the order of `starts`."""
        self.sequence = np.arange(len(starts))
        self.phase = np.array([_first_phase(start.request) for start in starts], dtype=np.int8)
        self.position = np.array([start.position for start in starts], dtype=np.int64)
        self.room = np.array([start.room for start in starts], dtype=np.int64)
        self.objects = np.array([start.request.settings.max_objects for start in starts], dtype=np.int64)
        self.sized = np.array([start.request.skill is Skill.DETECT for start in starts], dtype=bool)
        self.awaits_y = np.zeros(len(starts), dtype=bool)

    def __len__(self) -> int:
        return len(self.phase)

    def live(self) -> NDArray[np.bool_]:
        """Which rows have more to decide."""
        return self.phase != Phase.DONE

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Forget all rows but these."""
        for name in ("sequence", "phase", "position", "room", "objects", "sized", "awaits_y"):
            setattr(self, name, getattr(self, name)[rows])

    def spend(self, rows: NDArray[np.int64]) -> None:
        """These rows decided one more position."""
        self.room[rows] -= 1

    def end_token(self, rows: NDArray[np.int64]) -> None:
        """After a text token that ends nothing: rows without room are cut."""
        self.spend(rows)
        self.phase[rows[self.room[rows] <= 0]] = Phase.DONE

    def end_object(self, rows: NDArray[np.int64]) -> None:
        """After an object's last decision: rows that have no room for another whole object are cut."""
        self.objects[rows] -= 1
        needed = np.where(self.sized[rows], DETECT_POSITIONS, POINT_POSITIONS)
        cut = (self.objects[rows] <= 0) | (self.room[rows] < needed)
        self.phase[rows] = np.where(cut, Phase.DONE, Phase.OBJECT)


def least_room(skill: Skill) -> int:
    """Positions that the shortest useful answer takes: one object, or one token."""
    return {Skill.DETECT: DETECT_POSITIONS, Skill.POINT: POINT_POSITIONS}.get(skill, 1)


def _first_phase(request: SkillRequest) -> Phase:
    if request.skill in (Skill.POINT, Skill.DETECT):
        return Phase.OBJECT
    return Phase.THINK if request.reasoning else Phase.ANSWER
