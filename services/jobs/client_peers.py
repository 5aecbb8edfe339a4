"""The loop's peers over their gRPC clients, with the internal token in the name of the job's organisation."""

from collections.abc import Sequence

from moontune.clients.credentials import Credentials, Tls
from moontune.clients.reward import RewardClient
from moontune.clients.rollout import RolloutClient
from moontune.clients.trainer import TrainerClient
from moontune.values.finetune import Checkpoint, Finetune, LoraSettings, NewFinetune
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardResult, RewardSample, RewardSpec
from moontune.values.reward_report import RewardReport, SampleGroup
from moontune.values.rollout import RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.values.training import TrainStep, TrainStepResult
from services.jobs.config import JobsSettings

SCORED_AT_ONCE = 1024
"""Samples in one Score call; the contract allows 4096."""


class ClientPeers:
    """`Peers` for real. The organisation is that of the running task's principal (`moontune.auth.context`)."""

    def __init__(self, settings: JobsSettings) -> None:
        secret = settings.internal_token
        credentials = Credentials(
            internal_token=secret.get_secret_value() if secret else None,
            tls=Tls(authority=settings.services_ca) if settings.services_ca else None,
        )
        self._rollout = RolloutClient(settings.rollout_address, credentials, deadline_s=settings.rollout_timeout_s)
        self._reward = RewardClient(settings.reward_address, credentials)
        self._trainer = TrainerClient(settings.trainer_address, credentials, deadline_s=settings.step_timeout_s)

    async def close(self) -> None:
        """Close the channels."""
        for client in (self._rollout, self._reward, self._trainer):
            await client.close()

    async def create_finetune(self, name: str, lora: LoraSettings, request_id: str) -> Finetune:
        """A new finetune on the trainer's base; the same request id gives the same one."""
        return await self._trainer.create_finetune(NewFinetune(request_id, name, lora=lora))

    async def get_finetune(self, finetune_id: str) -> Finetune:
        """The finetune as the trainer has it now."""
        return await self._trainer.get_finetune(finetune_id)

    async def rollouts(self, model: str, request: SkillRequest, count: int, seed: int) -> RolloutGroup:
        """`count` attempts by the policy that the model string names."""
        return await self._rollout.generate(RolloutOrder(model, request, count, seed))

    async def score(self, reward: RewardSpec, samples: Sequence[RewardSample]) -> Sequence[RewardResult]:
        """One result a sample, in order."""
        results: list[RewardResult] = []
        for start in range(0, len(samples), SCORED_AT_ONCE):
            results += await self._reward.score(reward, samples[start : start + SCORED_AT_ONCE])
        return results

    async def dry_run(self, reward: RewardSpec, groups: Sequence[SampleGroup]) -> RewardReport:
        """What a reward says on samples, with warnings; raises for a spec that is wrong or does not fit them."""
        return await self._reward.validate(reward, groups)

    async def train_step(self, step: TrainStep) -> TrainStepResult:
        """Apply one step, or the stored answer if this request id came before."""
        return await self._trainer.train_step(step)

    async def save_checkpoint(self, finetune_id: str, step: int, request_id: str, client_state: bytes) -> Checkpoint:
        """Save the finetune's present step."""
        return await self._trainer.save_checkpoint(
            finetune_id, step=step, request_id=request_id, client_state=client_state
        )
