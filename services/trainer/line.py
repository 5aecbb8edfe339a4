"""A finetune's line: the steps that its present weights came through, newest first.

Steps are numbered onwards for ever: the step after a restore takes the next number that was never used, so a name such
as `ft@7` never comes to mean other weights. What was trained after the restored step stays, beside the line.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """The recent steps of a line with their adapters' digests.

    digests: step to adapter digest, in the order present step, the one it was made from, and so on.
    whole: whether the line's first step is among them; else older ones exist and are not known here.
    """

    digests: Mapping[int, str]
    whole: bool = True

    @property
    def present(self) -> int:
        """The step where the finetune stands."""
        return next(iter(self.digests))

    def lag(self, step: int) -> int:
        """How many optimiser steps lie between `step` and the present one; for an older one, all that are known."""
        return next((place for place, known in enumerate(self.digests) if known == step), len(self.digests))

    def may_hold(self, step: int) -> bool:
        """Whether `step` is on the line, or older than what is known of it."""
        return step in self.digests or (not self.whole and 0 <= step < min(self.digests))
