"""Policy-gradient losses by name: one pure function per file, one signature (`terms.Loss`)."""

from moontune.values.training import Aggregation, LossKind
from services.trainer.losses import cispo, dapo, dr_grpo, grpo, gspo, ppo, reinforce, rloo, sft
from services.trainer.losses.terms import Loss, LossParameters, LossTerms, PolicyTerms

LOSSES: dict[LossKind, tuple[Loss, Aggregation]] = {
    LossKind.GRPO: (grpo.loss, grpo.AGGREGATION),
    LossKind.DR_GRPO: (dr_grpo.loss, dr_grpo.AGGREGATION),
    LossKind.DAPO: (dapo.loss, dapo.AGGREGATION),
    LossKind.GSPO: (gspo.loss, gspo.AGGREGATION),
    LossKind.CISPO: (cispo.loss, cispo.AGGREGATION),
    LossKind.PPO: (ppo.loss, ppo.AGGREGATION),
    LossKind.REINFORCE: (reinforce.loss, reinforce.AGGREGATION),
    LossKind.RLOO: (rloo.loss, rloo.AGGREGATION),
}
"""Each loss with the aggregation of its paper."""

SUPERVISED: tuple[Loss, Aggregation] = (sft.loss, sft.AGGREGATION)
"""Of supervised groups, whatever the loss of the others."""

__all__ = ["LOSSES", "SUPERVISED", "Loss", "LossParameters", "LossTerms", "PolicyTerms"]
