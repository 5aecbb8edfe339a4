"""The optimiser's part of a step: passes over this rank's groups, the gang's gradient, clip, and one step each."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from moontune.errors import Cancelled, Internal, MoontuneError, NonFiniteStep
from moontune.telemetry.logs import get_logger
from moontune.telemetry.names import TrainKey
from moontune.values.training import TrainSettings
from services.trainer.batch import Piece, PlannedGroup, micro_batches
from services.trainer.gang import Gang, share_of
from services.trainer.health import StepHealth
from services.trainer.live import LiveFinetune
from services.trainer.memory import told_when_out
from services.trainer.passes import BatchPass, Cancellable, named
from services.trainer.shards import Shards

log = get_logger(__name__)


def optimise(
    ctx: Cancellable,
    one_pass: BatchPass,
    groups: Sequence[PlannedGroup],
    live: LiveFinetune,
    settings: TrainSettings,
    health: StepHealth,
    gang: Gang,
    shards: Shards,
    micro_tokens: int,
) -> None:
    """Change the finetune in place by one step; every rank changes it alike.

    Raises:
        NonFiniteStep: loss, gradient or result is not finite, here or on another rank. Cancelled: the caller left.
    """
    batches = list(micro_batches(share_of(groups, gang.rank, gang.size), micro_tokens))
    for number in range(settings.passes):
        last = number + 1 == settings.passes
        live.optimiser.zero_grad(set_to_none=True)
        failure = _told(gang, functools.partial(_accumulate, ctx, one_pass, batches, live.parameters, last=last))
        shards.finish(failure)
        raise_first(gang, failure)
        with health.timed(TrainKey.SECONDS_OPTIMISER):
            gang.reduce(live.parameters)
            with told_when_out("taking the optimiser's step"):
                _clip_and_step(live, settings.max_grad_norm, health)
    if gang.size > 1:
        health.merge(gang.gather(health.sums), gang.rank)
    health.put(TrainKey.LEARNING_RATE, settings.learning_rate)


def raise_first(gang: Gang, failure: MoontuneError | None) -> None:
    """Raise what went wrong on any rank, on every rank: none takes a step that another does not."""
    failures = [each for each in gang.gather(failure) if each is not None]
    if failures:
        raise failure or failures[0]


def _told(gang: Gang, work: Callable[[], MoontuneError | None]) -> MoontuneError | None:
    """What `work` finds; a bug of ours too where other ranks wait for this one's answer."""
    try:
        return work()
    except Exception:
        if gang.size == 1:
            raise
        log.exception("a pass failed", rank=gang.rank)
        return Internal(f"a pass failed on rank {gang.rank}, whose log says why; the step was not applied")


def _accumulate(
    ctx: Cancellable,
    one_pass: BatchPass,
    batches: Sequence[list[Piece]],
    parameters: Mapping[str, nn.Parameter],
    *,
    last: bool,
) -> MoontuneError | None:
    """Add up this rank's gradients; what went wrong is returned, for the others to hear of it."""
    try:
        for batch, leaving in zip(batches, _last_seen(batches), strict=True):
            if ctx.cancelled():
                return Cancelled("the caller left; the step was not applied")
            with told_when_out(f"training on {named(batch)}"):
                one_pass.run(batch)
            for parameter in parameters.values():
                if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                    return NonFiniteStep(f"the gradient is not finite after {named(batch)}; nothing was applied")
            if last:
                one_pass.release(leaving)
    except MoontuneError as error:
        return error
    return None


def _last_seen(batches: Sequence[list[Piece]]) -> list[set[str]]:
    """For each micro-batch the images that none of the later ones looks at."""
    later: set[str] = set()
    found: list[set[str]] = []
    for batch in reversed(batches):
        images = {piece.group.image for piece in batch}
        found.append(images - later)
        later |= images
    return found[::-1]


def _clip_and_step(live: LiveFinetune, max_norm: float, health: StepHealth) -> None:
    gradients = [parameter.grad for parameter in live.parameters.values() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=False)
    if not math.isfinite(float(norm)):
        raise NonFiniteStep("the gradient's norm is not finite; nothing was applied")
    torch.nn.utils.clip_grads_with_norm_(live.parameters.values(), max_norm, norm, foreach=False)
    live.optimiser.step()
    health.mean(TrainKey.GRAD_NORM, norm.reshape(1))
    if not all(bool(torch.isfinite(parameter).all()) for parameter in live.parameters.values()):
        raise NonFiniteStep("the adapter is not finite after the optimiser's step; nothing was applied")
