"""What the rollout service is told to generate."""

from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardSpec
from moontune.values.skill import TRAINABLE_SKILLS

MAX_ROLLOUTS = 64


@dataclass(frozen=True, slots=True)
class RolloutOrder:
    """One request and how often to attempt it.

    model: the policy, `<base>` or `<base>/<finetune_id>@<step>`. rollout_count: 1..64.
    seed: the attempts' own seeds are derived from it; None lets the service draw one.
    ground_truth, reward: score the attempts; reward None takes the skill's default reward.
    max_staleness_steps: how many steps older than `model` the policy may be; 0 means exactly the one named.
    """

    model: str
    request: SkillRequest
    rollout_count: int = 8
    seed: int | None = None
    ground_truth: GroundTruth | None = None
    reward: RewardSpec | None = None
    max_staleness_steps: int = 0

    def validate(self, field: str = "order") -> None:
        """Raise InvalidField for the first value that is not allowed; the model string is read by its service."""
        if not self.model:
            raise InvalidField.of(f"{field}.model", self.model, "<base> or <base>/<finetune_id>@<step>")
        if self.request.skill not in TRAINABLE_SKILLS:
            raise InvalidField.of(f"{field}.request", str(self.request.skill), "query, point or detect")
        self.request.validate(f"{field}.request")
        if not 1 <= self.rollout_count <= MAX_ROLLOUTS:
            raise InvalidField.of(f"{field}.rollout_count", self.rollout_count, f"1 to {MAX_ROLLOUTS}")
        if self.max_staleness_steps < 0:
            raise InvalidField.of(f"{field}.max_staleness_steps", self.max_staleness_steps, "0 or more")
        if self.ground_truth is not None:
            self.ground_truth.validate(self.request.skill, f"{field}.ground_truth")
        elif self.reward is not None:
            raise InvalidField.of(f"{field}.reward", "a reward", "none without ground_truth")
