"""The learner: the trainer's component in the model worker. Computes a step and writes its files; commits nothing.

The front tells it where the present step is and where the new one goes; it answers once the new folder is on the
disk. Whether that folder becomes the finetune's step is decided by the front's transaction, not here.
"""

from pathlib import Path

from moontune.checkpoints.disk import disk_error
from moontune.errors import MoontuneError, WrongBase
from moontune.model.base_model import BaseModel, share_base
from moontune.model.lora import Adapters
from moontune.telemetry.names import TrainKey
from moontune.values.finetune import Finetune, LoraTarget
from moontune.values.logprobs import DecisionScore
from services.trainer.autocast import autocast_body
from services.trainer.batch import BatchPlan, plan_batch
from services.trainer.gang import Alone, Gang, TorchGang
from services.trainer.health import StepHealth
from services.trainer.images import StepImages
from services.trainer.live import LiveFinetune, LiveFinetunes
from services.trainer.losses import LOSSES
from services.trainer.memory import default_budget, pass_positions, told_when_out
from services.trainer.optimise import optimise, raise_first
from services.trainer.orders import (
    CreateOrder,
    LearnerOptions,
    ScoreOrder,
    StepOutcome,
    TrainOrder,
    WrittenStep,
)
from services.trainer.passes import BatchPass, Cancellable
from services.trainer.prepared import StepGroups
from services.trainer.ranks import Ranks
from services.trainer.recompute import Recompute
from services.trainer.scores import score_spool
from services.trainer.shards import Shards, Undivided, divide
from services.trainer.spool import Spool
from services.trainer.step_folder import write_step

LEAST_POSITIONS = 64
"""Of a pass, however small its budget: one short row."""
NO_SIGNAL = "no group carries signal: in each, all rewards are equal, missing or too stale"


def build(base: BaseModel, options: LearnerOptions) -> "Learner":
    """The component's factory: its own module tree over the worker's base. Under torchrun it waits for all ranks."""
    ranks = Ranks()
    gang = TorchGang(ranks, base.device) if ranks.world_size > 1 else Alone()
    return learner_of(base, options, gang)


def learner_of(base: BaseModel, options: LearnerOptions, gang: Gang) -> "Learner":
    """A rank's learner on a module tree of its own, with the base divided among the ranks where that is set."""
    own, shards = share_base(base), Undivided()
    if options.shard_base:
        own, shards = divide(own, gang, options.device)
    return Learner(own, options, gang, shards)


class Learner:
    """Creates finetunes, applies steps and scores rollouts, one call at a time. Ranks that follow only apply steps."""

    worker_threads = 1

    def __init__(
        self, base: BaseModel, options: LearnerOptions, gang: Gang | None = None, shards: Shards | None = None
    ) -> None:
        self._base = base
        self._options = options
        self._gang, self._shards = gang or Alone(), shards or Undivided()
        self._adapters = Adapters(base.module)
        budget_bytes = options.finetune_bytes or default_budget(base.device)
        self._live = LiveFinetunes(self._adapters, options.live_finetunes, budget_bytes)
        self._micro_tokens = options.micro_tokens
        if options.pass_bytes:
            self._micro_tokens = pass_positions(base.config, options.pass_bytes, LEAST_POSITIONS)
        if options.autocast:
            autocast_body(base.module, base.device)
        blocks = [*base.module.text.blocks, *base.module.vision.blocks]
        self._recompute = Recompute(blocks, 0 if options.recompute else self._micro_tokens)

    def create(self, ctx: Cancellable, order: CreateOrder) -> WrittenStep:
        """Write step 0 of a new finetune."""
        del ctx
        self._check_base(order.finetune)
        self._shards.check(order.finetune)
        with told_when_out(f"creating finetune {order.finetune.name!r}"):
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
        self._gang.share(order)
        health, settings = StepHealth(), order.settings
        with health.timed(TrainKey.SECONDS_STEP):
            with health.timed(TrainKey.SECONDS_PREPARE):
                plan, live = self._begin(order)
            if live is None:
                return StepOutcome(None, NO_SIGNAL, health.figures(plan.tally))
            try:
                live.configure(settings)
                health.put(TrainKey.MEMORY_BYTES, live.size_bytes)
                self._passes(ctx, order, plan, live, health)
                state = live.client_state if order.client_state is None else order.client_state
                with health.timed(TrainKey.SECONDS_PERSIST):
                    figures = health.figures(plan.tally)
                    written = None
                    if self._gang.rank == 0:
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
            return self._scored(ctx, order)
        self._check_base(order.finetune)
        live = self._live.take(order.finetune, Path(order.folder))
        try:
            self._adapters.activate(order.finetune.id)
            return self._scored(ctx, order)
        finally:
            self._adapters.activate(None)
            self._live.keep(live, Path(order.folder))

    def attend(self) -> None:
        """Gather along while the leader scores; on the ranks that follow, where the base is divided."""
        self._shards.finish()

    def _scored(self, ctx: Cancellable, order: ScoreOrder) -> tuple[tuple[DecisionScore, ...], ...]:
        if self._shards.divided:
            self._gang.share(order)
        try:
            with told_when_out("scoring"):
                return score_spool(ctx, self._base, Spool(Path(order.spool)), order.groups, self._options)
        finally:
            self._shards.finish()

    def forget(self, ctx: Cancellable, finetune_id: str) -> None:
        """Let go of a deleted or restored finetune."""
        del ctx
        self._gang.share(finetune_id)
        self._live.forget(finetune_id)

    def _begin(self, order: TrainOrder) -> tuple[BatchPlan, LiveFinetune | None]:
        """The plan, and the finetune at its present step where it is to learn something; on every rank or on none."""
        plan = live = failure = None
        try:
            plan = self._plan(order)
            live = self._live.take(order.finetune, Path(order.folder)) if plan.groups else None
        except MoontuneError as error:
            failure = error
        try:
            raise_first(self._gang, failure)
        except MoontuneError:
            if live is not None:
                self._live.drop(live)
            raise
        assert plan is not None
        return plan, live

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
            groups = self._groups(order)
            one_pass = BatchPass(self._base, self._adapters, groups, images, settings, health, self._recompute)
            optimise(ctx, one_pass, plan.groups, live, settings, health, self._gang, self._shards, self._micro_tokens)
        finally:
            live.optimiser.zero_grad(set_to_none=True)
            self._adapters.activate(None)

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
