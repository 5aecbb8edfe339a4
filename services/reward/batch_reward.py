"""A reward that is not a function of ours: user code, a container, a plugin or a judge. It is asked for batches."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from moontune.values.reward import Parameter, RewardInfo, RewardResult, RewardSample


class BatchReward(Protocol):
    """One interface for everything that runs outside the catalogue.

    info: as listed; its skills and labels say which samples it takes, its range what `normalise` maps from.
    """

    @property
    def info(self) -> RewardInfo:
        """The catalogue entry."""
        ...

    async def score(
        self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]
    ) -> Sequence[RewardResult]:
        """One result a sample, in order; its components show as `<name>/<component>`.

        A result whose reward is None is "no score", with the reason in its detail. Raises from the error tree only for
        what concerns the batch as a whole.
        """
        ...
