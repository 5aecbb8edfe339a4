"""Checks of a step's groups before anything is computed; each names the field, the value and what is allowed."""

from moontune.errors import InvalidField, WrongBase
from moontune.imaging.decode import inspect_image
from moontune.values.finetune import Finetune
from moontune.values.request import SkillRequest
from moontune.values.rollout import Rollout
from moontune.values.skill import TRAINABLE_SKILLS
from moontune.values.training import Group, RlGroup
from services.trainer.line import Line

MAX_REWARD = 1e9
"""Larger rewards drown the others in fp32 and overflow a gradient; a scale like that is a mistake in the reward."""


def check_group(group: Group, finetune: Finetune, line: Line, field: str) -> None:
    """Raise InvalidField (or WrongBase) for a group that this finetune cannot be trained on.

    Args:
        group: as it came; ranges of its values are checked by the wire.
        finetune: as it is now.
        line: the steps that it came through.
        field: the group's path, `groups[3]`.
    """
    check_image(group.request, f"{field}.request")
    if group.request.skill not in TRAINABLE_SKILLS:
        raise InvalidField.of(f"{field}.request", str(group.request.skill), ", ".join(TRAINABLE_SKILLS))
    if not isinstance(group, RlGroup):
        return
    if not group.rollouts:
        raise InvalidField.of(f"{field}.rl.rollouts", "none", "at least one rollout")
    if len(group.rewards) != len(group.rollouts):
        raise InvalidField.of(f"{field}.rl.rewards", f"{len(group.rewards)} rewards", f"{len(group.rollouts)}")
    for index, reward in enumerate(group.rewards):
        if reward is not None and not abs(reward) <= MAX_REWARD:
            allowed = f"a finite number from -{MAX_REWARD:g} to {MAX_REWARD:g}"
            raise InvalidField.of(f"{field}.rl.rollouts[{index}].reward", reward, allowed)
    for index, rollout in enumerate(group.rollouts):
        path = f"{field}.rl.rollouts[{index}].rollout"
        if rollout.temperature == 0.0:
            raise InvalidField.of(
                f"{path}.temperature",
                0.0,
                "more than 0: a greedy rollout is an evaluation and has no odds to learn from",
            )
        if group.verified:
            check_policy(rollout, finetune, line, f"{path}.policy")


def check_policy(rollout: Rollout, finetune: Finetune, line: Line, field: str) -> None:
    """Raise unless the rollout came from this finetune's line (or the bare base, which is its step 0)."""
    policy = rollout.policy
    if policy.base_digest != finetune.base_digest:
        raise WrongBase(
            f"{field}.base_digest is {policy.base_digest!r}; finetune {finetune.id} is on {finetune.base} "
            f"({finetune.base_digest})",
            metadata={"field": field},
        )
    if policy.finetune_id not in ("", finetune.id):
        raise InvalidField.of(f"{field}.finetune_id", policy.finetune_id, f"{finetune.id} or the bare base")
    if not 0 <= policy.step <= finetune.step:
        raise InvalidField.of(f"{field}.step", policy.step, f"0 to {finetune.step}, the finetune's step")
    if not line.may_hold(policy.step):
        allowed = f"a step that step {finetune.step} came through; a restore left this one beside the line"
        raise InvalidField.of(f"{field}.step", policy.step, allowed)
    digest = line.digests.get(policy.step)
    if policy.finetune_id and digest is not None and policy.adapter_digest != digest:
        allowed = f"{digest}, the adapter of step {policy.step}"
        raise InvalidField.of(f"{field}.adapter_digest", policy.adapter_digest, allowed)


def check_image(request: SkillRequest, field: str) -> None:
    """Raise ImageInvalid or ImageTooLarge by the file's header; nothing is decoded here."""
    if request.image is not None and request.image.data is not None:
        inspect_image(request.image.data, f"{field}.images[0]")
