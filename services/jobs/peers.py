"""What the loop asks of the other services, in its own words; `client_peers.py` answers through their clients."""

from collections.abc import Sequence
from typing import Protocol

from moontune.values.finetune import Checkpoint, Finetune, LoraSettings
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardResult, RewardSample, RewardSpec
from moontune.values.reward_report import RewardReport, SampleGroup
from moontune.values.rollout import RolloutGroup
from moontune.values.training import TrainStep, TrainStepResult


class Peers(Protocol):
    """The rollout, reward and trainer services, called for one organisation. All raise from the error tree."""

    async def create_finetune(self, name: str, lora: LoraSettings, request_id: str) -> Finetune:
        """A new finetune on the trainer's base; the same request id gives the same one."""
        ...

    async def get_finetune(self, finetune_id: str) -> Finetune:
        """The finetune as the trainer has it now."""
        ...

    async def rollouts(self, model: str, request: SkillRequest, count: int, seed: int) -> RolloutGroup:
        """`count` attempts by the policy that the model string names."""
        ...

    async def score(self, reward: RewardSpec, samples: Sequence[RewardSample]) -> Sequence[RewardResult]:
        """One result a sample, in order."""
        ...

    async def dry_run(self, reward: RewardSpec, groups: Sequence[SampleGroup]) -> RewardReport:
        """What a reward says on samples, with warnings; raises for a spec that is wrong or does not fit them."""
        ...

    async def train_step(self, step: TrainStep) -> TrainStepResult:
        """Apply one step, or the stored answer if this request id came before."""
        ...

    async def save_checkpoint(self, finetune_id: str, step: int, request_id: str, client_state: bytes) -> Checkpoint:
        """Save the finetune's present step; InvalidState or StepMismatch if it is not `step`."""
        ...
