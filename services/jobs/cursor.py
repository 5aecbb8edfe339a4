"""Which prompts an iteration takes: a shuffled pass over the data set, then the next, without end.

The cursor counts samples taken since the job's start. It travels to the trainer as `client_state` of each step, so
that whoever restores a checkpoint knows which prompts its policy has seen. Nothing is kept but the count: the order of
each pass is drawn from the job's seed and the pass's number.
"""

import json
from dataclasses import dataclass
from typing import cast

import numpy as np

from moontune.errors import InvalidField


@dataclass(frozen=True, slots=True)
class Cursor:
    """The samples that iteration `iteration` of a job takes are those from `taken` on."""

    job_id: str
    iteration: int
    taken: int

    def to_bytes(self) -> bytes:
        """The `client_state` of a step."""
        return json.dumps({"job": self.job_id, "iteration": self.iteration, "taken": self.taken}).encode()

    @classmethod
    def from_bytes(cls, state: bytes) -> "Cursor":
        """Read `to_bytes` back."""
        try:
            entries = cast("dict[str, object]", json.loads(state))
            return cls(str(entries["job"]), int(str(entries["iteration"])), int(str(entries["taken"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidField.of("client_state", state, "a cursor that jobs wrote") from error

    def advanced(self, count: int) -> "Cursor":
        """After an iteration of `count` samples."""
        return Cursor(self.job_id, self.iteration + 1, self.taken + count)


def indices(cursor: Cursor, count: int, size: int, seed: int) -> list[int]:
    """The next `count` sample indices of a data set of `size`: within a pass no sample comes twice.

    An iteration that crosses the end of a pass goes on with the next one's order.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        number, offset = divmod(cursor.taken + len(chosen), size)
        order = np.random.default_rng([seed, number]).permutation(size)
        chosen.extend(int(index) for index in order[offset : offset + count - len(chosen)])
    return chosen
