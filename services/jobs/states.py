"""A job's states as a machine: which move follows which, and what a user may order when.

queued ──▶ validating ──▶ running ──▶ succeeded
  │            │          │  ▲  └───▶ failed ──(resume)──▶ queued
  │            └──────────┤  └ queued ◀──(resume)── paused
  └──▶ paused / cancelled ◀──┘ (cancelling first, while a step is in flight)

Nothing here knows of databases or tasks.
"""

from collections.abc import Mapping
from enum import StrEnum

from moontune.errors import InvalidState
from moontune.values.job import JobState

S = JobState

MOVES: Mapping[JobState, frozenset[JobState]] = {
    S.QUEUED: frozenset({S.VALIDATING, S.PAUSED, S.CANCELLED}),
    S.VALIDATING: frozenset({S.RUNNING, S.QUEUED, S.PAUSED, S.CANCELLING, S.FAILED}),
    S.RUNNING: frozenset({S.QUEUED, S.PAUSED, S.CANCELLING, S.SUCCEEDED, S.FAILED}),
    S.PAUSED: frozenset({S.QUEUED, S.CANCELLED}),
    S.CANCELLING: frozenset({S.CANCELLED}),
    S.FAILED: frozenset({S.QUEUED}),
    S.CANCELLED: frozenset(),
    S.SUCCEEDED: frozenset(),
}
"""State -> states it may go to. A service that starts puts what it finds under way back to queued."""

UNDER_WAY = (S.VALIDATING, S.RUNNING, S.CANCELLING)


class Order(StrEnum):
    """What a user may order of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


def ordered(state: JobState, order: Order) -> JobState:
    """The state after an order; the same state when it has been carried out already.

    Raises:
        InvalidState: the order makes no sense in this state; the message says which are allowed.
    """
    match order:
        case Order.CANCEL:
            goals = {S.QUEUED: S.CANCELLED, S.PAUSED: S.CANCELLED, S.VALIDATING: S.CANCELLING, S.RUNNING: S.CANCELLING}
            done = (S.CANCELLING, S.CANCELLED)
        case Order.PAUSE:
            goals = {S.QUEUED: S.PAUSED, S.VALIDATING: S.PAUSED, S.RUNNING: S.PAUSED}
            done = (S.PAUSED,)
        case Order.RESUME:
            goals = {S.PAUSED: S.QUEUED, S.FAILED: S.QUEUED}
            done = (S.QUEUED, S.VALIDATING, S.RUNNING)
    if state in done:
        return state
    if state not in goals:
        raise InvalidState(
            f"a job that is {state} cannot be told to {order}; allowed while it is {', '.join([*goals, *done])}",
            metadata={"state": state, "order": order},
        )
    return goals[state]


def check_move(before: JobState, after: JobState) -> None:
    """Raise InvalidState unless the machine has this move."""
    if after not in MOVES[before]:
        raise InvalidState(f"a job cannot go from {before} to {after}", metadata={"state": before})
