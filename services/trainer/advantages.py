"""From the rewards of one group to one advantage per rollout. Pure; no torch.

A reward of None is a failed grade: it leaves the baseline and the rollout has no advantage (None), never a silent 0.
"""

import math
from collections.abc import Sequence

from moontune.values.training import LossKind

STD_FLOOR = 1e-6
"""Added to the standard deviation before dividing; a group without any spread never gets that far."""


def has_signal(rewards: Sequence[float | None]) -> bool:
    """Whether at least two rewards are there and differ. Exact comparison: float noise of a mean is not signal."""
    scored = {reward for reward in rewards if reward is not None}
    return len(scored) > 1


def group_advantages(rewards: Sequence[float | None], loss: LossKind, normalise_std: bool) -> list[float | None]:
    """Advantages of a group.

    A_i = R_i - mean_g (Dr.GRPO, 2503.20783); divided by the group's standard deviation (unbiased, as GRPO
    implementations have it) when `normalise_std`; for RLOO (2402.14740) the baseline leaves the rollout itself out:
    A_i = R_i - mean_{j != i} R_j = n / (n - 1) (R_i - mean_g).

    Args:
        rewards: one per rollout; None is no score.
        loss: RLOO changes the baseline.
        normalise_std: divide by the standard deviation of the scored rewards.

    Returns:
        One advantage per rollout, None where the reward is None; all 0 for a group without signal.
    """
    scored = [reward for reward in rewards if reward is not None]
    if not has_signal(rewards):
        return [None if reward is None else 0.0 for reward in rewards]
    count = len(scored)
    mean = math.fsum(scored) / count
    factor = count / (count - 1) if loss is LossKind.RLOO else 1.0
    if normalise_std:
        variance = sum((reward - mean) * (reward - mean) for reward in scored) / (count - 1)
        factor /= math.sqrt(variance) + STD_FLOOR
    return [None if reward is None else (reward - mean) * factor for reward in rewards]
