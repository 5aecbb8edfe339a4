"""The record of a batch's decisions: arrays while decoding, `Decision` values once at the end."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moontune.values.rollout import Decision, Head

Nucleus = tuple[int, ...] | None


class Trace:
    """Decisions in the order they were taken, one entry per head and step for all sequences at once."""

    def __init__(self, sequences: int) -> None:
        """An empty record of this many sequences."""
        self._sequences = sequences
        self._entries: list[tuple[Head, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], Sequence[Nucleus]]]
        self._entries = []

    def add(
        self,
        head: Head,
        sequences: NDArray[np.int64],
        choices: NDArray[np.int64],
        logprobs: NDArray[np.float32],
        nuclei: Sequence[Nucleus] = (),
    ) -> None:
        """One decision each of these sequences; `nuclei` is empty when no row cuts its distribution."""
        self._entries.append((head, sequences, choices, logprobs, nuclei))

    def decisions(self) -> list[list[Decision]]:
        """The decisions of each sequence, in order."""
        found: list[list[Decision]] = [[] for _ in range(self._sequences)]
        for head, sequences, choices, logprobs, nuclei in self._entries:
            rows = zip(sequences.tolist(), choices.tolist(), logprobs.tolist(), strict=True)
            for index, (sequence, choice, logprob) in enumerate(rows):
                found[sequence].append(Decision(head, choice, logprob, nuclei[index] if nuclei else None))
        return found
