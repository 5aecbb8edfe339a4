"""What the gateway asks of the other services, with its deadlines; over `moontune.clients`."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from moontune.clients.credentials import Credentials, Tls
from moontune.clients.inference import InferenceClient
from moontune.clients.retry import RetryPolicy
from moontune.clients.rollout import RolloutClient
from moontune.clients.trainer import TrainerClient
from moontune.values.adapter import ExportKind
from moontune.values.finetune import Checkpoint, CheckpointRef, Finetune, LoraSettings, MetricPoint, NewFinetune
from moontune.values.ground_truth import GroundTruth
from moontune.values.inference import InferenceEvent, InferenceRequest, InferenceResult, ModelInfo
from moontune.values.model_ref import ModelRef
from moontune.values.page import Page
from moontune.values.request import SkillRequest
from moontune.values.rollout import RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.values.training import TrainStep, TrainStepResult
from services.gateway.config import GatewaySettings

T = TypeVar("T")
_PAGE = 1000
PATIENCE = RetryPolicy(longest_asked_s=5.0)
"""A full quota asks for a minute: the caller is told so at once, with Retry-After, and not kept waiting."""


def credentials_of(settings: GatewaySettings) -> Credentials:
    """The internal token and the services' TLS roots, as far as they are set."""
    token = settings.internal_token.get_secret_value() if settings.internal_token else None
    tls = Tls(authority=Path(settings.services_ca)) if settings.services_ca else None
    return Credentials(internal_token=token, tls=tls)


class Upstream:
    """The services behind the gateway. Calls carry the organisation of the request being answered."""

    def __init__(self, settings: GatewaySettings) -> None:
        credentials = credentials_of(settings)
        control_s = settings.control_timeout_s
        self._settings = settings
        self._rollout = RolloutClient(
            settings.rollout_address, credentials, deadline_s=settings.rollout_timeout_s, retry=PATIENCE
        )
        self._trainer = TrainerClient(settings.trainer_address, credentials, deadline_s=control_s, retry=PATIENCE)
        self._inference = InferenceClient(
            settings.inference_address, credentials, deadline_s=settings.inference_timeout_s, retry=PATIENCE
        )

    async def close(self) -> None:
        """Close the channels."""
        for client in (self._rollout, self._trainer, self._inference):
            await client.close()

    async def create_finetune(self, name: str, rank: int) -> Finetune:
        """Create, or find the one of this name and rank."""
        return await self._trainer.create_finetune(NewFinetune("", name, lora=LoraSettings(rank=rank)))

    async def get_finetune(self, finetune_id: str) -> Finetune:
        """Read one."""
        return await self._trainer.get_finetune(finetune_id)

    async def list_finetunes(self) -> list[Finetune]:
        """All of the organisation's."""

        async def page(token: str) -> Page[Finetune]:
            return await self._trainer.list_finetunes(page_size=_PAGE, page_token=token)

        return await _all(page)

    async def delete_finetune(self, finetune_id: str) -> None:
        """Delete one with its checkpoints."""
        await self._trainer.delete_finetune(finetune_id)

    async def log_metrics(self, finetune_id: str, points: Sequence[MetricPoint]) -> None:
        """Add the caller's own numbers."""
        await self._trainer.log_metrics(finetune_id, points)

    async def metric_points(self, finetune_id: str, after_step: int, last_step: int) -> list[MetricPoint]:
        """The points of the steps after after_step, up to last_step."""
        points: list[MetricPoint] = []
        token = ""
        while True:
            page = await self._trainer.list_metrics(
                finetune_id, after_step=after_step, page_size=_PAGE, page_token=token
            )
            points += [point for point in page.items if point.step <= last_step]
            token = page.next_page_token
            if not token or page.items[-1].step > last_step:
                return points

    async def train_step(self, step: TrainStep) -> TrainStepResult:
        """Apply one step."""
        return await self._trainer.train_step(step, deadline_s=self._settings.train_timeout_s)

    async def save_checkpoint(self, finetune_id: str) -> Checkpoint:
        """Save the present step."""
        return await self._trainer.save_checkpoint(finetune_id, deadline_s=self._settings.train_timeout_s)

    async def list_checkpoints(self, finetune_id: str) -> list[Checkpoint]:
        """All saved ones of a finetune."""

        async def page(token: str) -> Page[Checkpoint]:
            return await self._trainer.list_checkpoints(finetune_id, page_size=_PAGE, page_token=token)

        return await _all(page)

    async def get_checkpoint(self, finetune_id: str, checkpoint_id: str) -> Checkpoint:
        """A saved step by its checkpoint's id."""
        return await self._trainer.get_checkpoint(CheckpointRef(finetune_id, checkpoint_id=checkpoint_id))

    async def get_checkpoint_at(self, finetune_id: str, step: int) -> Checkpoint:
        """A saved step."""
        return await self._trainer.get_checkpoint(CheckpointRef(finetune_id, step))

    async def export(self, finetune_id: str, step: int, kind: ExportKind, folder: Path) -> None:
        """Write a saved step to a folder in a form, every file checked."""
        timeout_s = self._settings.train_timeout_s
        await self.get_checkpoint_at(finetune_id, step)  # an unsaved step could be downloaded too, but is nobody's link
        if kind is ExportKind.PEFT:
            await self._trainer.download_adapter(finetune_id, folder, step=step, deadline_s=timeout_s)
        else:
            ref = CheckpointRef(finetune_id, step)
            await self._trainer.export_checkpoint(ref, kind, folder, deadline_s=timeout_s)

    async def delete_checkpoint(self, finetune_id: str, step: int) -> None:
        """Delete a saved step."""
        await self._trainer.delete_checkpoint(CheckpointRef(finetune_id, step))

    async def generate(
        self, finetune: Finetune, request: SkillRequest, count: int, truth: GroundTruth | None
    ) -> RolloutGroup:
        """Rollouts of the finetune's present policy, scored by the skill's default reward where there is truth."""
        model = str(ModelRef(finetune.base, finetune.id, finetune.step))
        return await self._rollout.generate(RolloutOrder(model, request, count, ground_truth=truth))

    async def answer(self, model: str, request: SkillRequest) -> InferenceResult:
        """One inference request of any skill."""
        return await self._inference.answer(InferenceRequest(model, request))

    def stream_answer(self, model: str, request: SkillRequest) -> AsyncGenerator[InferenceEvent, None]:
        """A query or caption as its text comes."""
        return self._inference.stream(InferenceRequest(model, request))

    async def list_models(self) -> list[ModelInfo]:
        """The base, then the organisation's saved steps."""

        async def page(token: str) -> Page[ModelInfo]:
            return await self._inference.list_models(page_size=_PAGE, page_token=token)

        return await _all(page)


async def _all(fetch: Callable[[str], Awaitable[Page[T]]]) -> list[T]:
    items: list[T] = []
    token = ""
    while True:
        page = await fetch(token)
        items += page.items
        token = page.next_page_token
        if not token:
            return items
