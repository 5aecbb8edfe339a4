"""The learner: the trainer's component in the model worker. Computes a step and writes its files; commits nothing.

The front tells it where the present step is and where the new one goes; it answers once the new folder is on the
disk. Whether that folder becomes the finetune's step is decided by the front's transaction, not here.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from moontune.checkpoints.disk import disk_error
from moontune.errors import Cancelled, NonFiniteStep, WrongBase
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora import Adapters
from moontune.telemetry.names import TrainKey
from moontune.values.finetune import Finetune, LoraTarget
from moontune.values.logprobs import DecisionScore
from services.trainer.batch import BatchPlan, Piece, micro_batches, plan_batch
from services.trainer.health import StepHealth
from services.trainer.images import StepImages
from services.trainer.live import LiveFinetune, LiveFinetunes
from services.trainer.losses import LOSSES
from services.trainer.orders import (
    CreateOrder,
    LearnerOptions,
    ScoreOrder,
    StepOutcome,
    TrainOrder,
    WrittenStep,
)
from services.trainer.passes import BatchPass, Cancellable, named
from services.trainer.prepared import StepGroups
from services.trainer.scores import score_spool
from services.trainer.spool import Spool
from services.trainer.step_folder import write_step

NO_SIGNAL = "no group carries signal: in each, all rewards are equal, missing or too stale"


def build(base: BaseModel, options: LearnerOptions) -> "Learner":
    """The component's factory: its own module tree over the worker's base."""
    return Learner(share_base(base), options)


class Learner:
    """Creates finetunes, applies steps and scores rollouts, one call at a time."""

    worker_threads = 1

    def __init__(self, base: BaseModel, options: LearnerOptions) -> None:
        self._base = base
        self._options = options
        self._adapters = Adapters(base.module)
        self._live = LiveFinetunes(self._adapters, options.live_finetunes)

    def create(self, ctx: Cancellable, order: CreateOrder) -> WrittenStep:
        """Write step 0 of a new finetune."""
        del ctx
        self._check_base(order.finetune)
        live = self._live.create(order.finetune, order.source)
        try:
            written = self._write(order.folder, order.finetune, 0, live, None, {})
        except BaseException:
            self._live.drop(live)
            raise
        self._live.keep(live, Path(order.folder))
        return written

    def train(self, ctx: Cancellable, order: TrainOrder) -> StepOutcome:
        """Apply one step and write it; the finetune in memory is then the new one.

        Raises:
            InvalidField: a group cannot be what a policy answered; names it.
            NonFiniteStep: loss or gradient is not finite; names the groups.
            Cancelled: the caller left. CheckpointCorrupt: the present step's files are damaged.
        """
        self._check_base(order.finetune)
        health, settings = StepHealth(), order.settings
        with health.timed(TrainKey.SECONDS_STEP):
            with health.timed(TrainKey.SECONDS_PREPARE):
                plan = self._plan(order)
            if not plan.groups:
                return StepOutcome(None, NO_SIGNAL, health.figures(plan.tally))
            live = self._live.take(order.finetune, Path(order.folder))
            try:
                live.configure(settings)
                self._passes(ctx, order, plan, live, health)
                state = live.client_state if order.client_state is None else order.client_state
                with health.timed(TrainKey.SECONDS_PERSIST):
                    figures = health.figures(plan.tally)
                    written = self._write(order.new_folder, order.finetune, order.step, live, state, figures)
            except BaseException:
                self._live.drop(live)
                raise
            live.client_state = state
            self._live.keep(live, Path(order.new_folder))
        return StepOutcome(written, "", health.figures(plan.tally))

    def score(self, ctx: Cancellable, order: ScoreOrder) -> tuple[tuple[DecisionScore, ...], ...]:
        """Log-probability and entropy of every decision of every rollout, group after group."""
        if order.finetune is None:
            self._adapters.activate(None)
            return score_spool(ctx, self._base, Spool(Path(order.spool)), order.groups, self._options)
        self._check_base(order.finetune)
        live = self._live.take(order.finetune, Path(order.folder))
        try:
            self._adapters.activate(order.finetune.id)
            return score_spool(ctx, self._base, Spool(Path(order.spool)), order.groups, self._options)
        finally:
            self._adapters.activate(None)
            self._live.keep(live, Path(order.folder))

    def forget(self, ctx: Cancellable, finetune_id: str) -> None:
        """Let go of a deleted or restored finetune."""
        del ctx
        self._live.forget(finetune_id)

    def _groups(self, order: TrainOrder) -> StepGroups:
        spool = Spool(Path(order.spool))
        return StepGroups(spool, order.settings, order.step, self._base.config, self._base.tokenizer)

    def _plan(self, order: TrainOrder) -> BatchPlan:
        _, papers = LOSSES[order.settings.loss]
        aggregation = order.settings.aggregation or papers
        return plan_batch(self._groups(order), order.groups, order.line, order.settings, aggregation)

    def _passes(
        self, ctx: Cancellable, order: TrainOrder, plan: BatchPlan, live: LiveFinetune, health: StepHealth
    ) -> None:
        settings, spool = order.settings, Spool(Path(order.spool))
        trained = LoraTarget.VISION in order.finetune.lora.targets
        images = StepImages(self._base.module, spool, self._options.image_cache_bytes, trained=trained)
        self._adapters.activate(order.finetune.id)
        try:
            one_pass = BatchPass(self._base, self._adapters, self._groups(order), images, settings, health)
            for _ in range(settings.passes):
                live.optimiser.zero_grad(set_to_none=True)
                for batch in micro_batches(plan.groups, self._options.micro_tokens):
                    if ctx.cancelled():
                        raise Cancelled("the caller left; the step was not applied")
                    one_pass.run(batch)
                    self._check_gradients(live, batch)
                with health.timed(TrainKey.SECONDS_OPTIMISER):
                    self._clip_and_step(live, settings.max_grad_norm, health)
            health.total(TrainKey.LEARNING_RATE, settings.learning_rate)
        finally:
            live.optimiser.zero_grad(set_to_none=True)
            self._adapters.activate(None)

    def _check_gradients(self, live: LiveFinetune, batch: Sequence[Piece]) -> None:
        for parameter in live.parameters.values():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise NonFiniteStep(f"the gradient is not finite after {named(batch)}; nothing was applied")

    def _clip_and_step(self, live: LiveFinetune, max_norm: float, health: StepHealth) -> None:
        gradients = [parameter.grad for parameter in live.parameters.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=False)
        if not math.isfinite(float(norm)):
            raise NonFiniteStep("the gradient's norm is not finite; nothing was applied")
        torch.nn.utils.clip_grads_with_norm_(live.parameters.values(), max_norm, norm, foreach=False)
        live.optimiser.step()
        health.mean(TrainKey.GRAD_NORM, norm.reshape(1))
        if not all(bool(torch.isfinite(parameter).all()) for parameter in live.parameters.values()):
            raise NonFiniteStep("the adapter is not finite after the optimiser's step; nothing was applied")

    def _write(
        self,
        folder: str,
        finetune: Finetune,
        step: int,
        live: LiveFinetune,
        client_state: bytes | None,
        metrics: dict[str, float],
    ) -> WrittenStep:
        try:
            return write_step(Path(folder), finetune, step, self._adapters, live.state(), client_state, metrics)
        except OSError as error:
            raise disk_error(error, f"step {step} cannot be written and was not applied") from error

    def _check_base(self, finetune: Finetune) -> None:
        if finetune.base_digest != self._base.digest:
            raise WrongBase(
                f"finetune {finetune.id} is on base {finetune.base} ({finetune.base_digest}); this process serves "
                f"{self._base.name} ({self._base.digest})"
            )
