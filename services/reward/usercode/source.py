"""What every kind of user reward is to the service: a batch of samples in, one verdict each out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from moontune.values.reward import Parameter, RewardSample
from services.reward.sandbox.verdict import Verdict


class Source(Protocol):
    """Scores samples of one organisation with one version of a reward.

    kind: for metrics: code, container, remote, judge or plugin. A sample that cannot be graded gets a verdict with its
    failure; an error of `moontune.errors` is raised only where nothing of the batch could be tried.
    """

    @property
    def kind(self) -> str:
        """For metrics."""
        ...

    async def score(self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]) -> Sequence[Verdict]:
        """One verdict a sample, in their order."""
        ...
