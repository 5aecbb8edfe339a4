"""What the engine is asked to do. No torch here: front processes build orders and send them to their worker."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.inference import TextDelta, Usage
from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.rollout import RolloutGroup
from moontune.values.rollout_order import MAX_ROLLOUTS


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter's files on this machine. digest: `sha256:<64 hex>` of their content. path: a PEFT folder."""

    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class GenerationOrder:
    """One request to be answered `num_rollouts` times.

    request: its image carries bytes. seed: 0..2^64-1; with `rollout_seed` it fixes every draw, whatever else is in the
    batch. policy: reported with each rollout, as resolved by the caller. adapter: None runs the bare base. stream: the
    only rollout is also sent in pieces as it comes, each a `Piece`, through the call's context.
    field, image_field: paths of `request` and of its image in what the caller sent, for errors.
    """

    request: SkillRequest
    num_rollouts: int
    seed: int
    policy: PolicyVersion
    adapter: AdapterRef | None = None
    field: str = "request"
    image_field: str = "request.images[0]"
    stream: bool = False

    def validate(self) -> None:
        """Raise InvalidField for the first value out of range."""
        if not 1 <= self.num_rollouts <= MAX_ROLLOUTS:
            raise InvalidField.of("num_rollouts", self.num_rollouts, f"1 to {MAX_ROLLOUTS}")
        if not 0 <= self.seed < 2**64:
            raise InvalidField.of("seed", self.seed, "0 to 2^64 - 1")
        if self.stream and self.num_rollouts != 1:
            raise InvalidField.of("num_rollouts", self.num_rollouts, "1 when the answer is streamed")
        self.request.validate(self.field)


@dataclass(frozen=True, slots=True)
class Generation:
    """An order's answer. usage.output_tokens: decisions of all its rollouts."""

    group: RolloutGroup
    usage: Usage


Piece = TextDelta | Point | Box
"""Part of a streamed answer: more text, or one more finished object."""


class CallContext(Protocol):
    """The part of a worker's call context that the engine uses."""

    def cancelled(self) -> bool:
        """Whether the caller has left or its deadline has passed; asked at every decode step."""
        ...

    def emit(self, item: object) -> None:
        """Send one piece of a streamed answer to the caller, in order; called by the caller's own thread."""
        ...


def rollout_seed(seed: int, index: int) -> int:
    """Seed of the generator of rollout `index`: 63 bits of SHA-256 over both numbers, so that neighbours differ."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8], "big") >> 1
