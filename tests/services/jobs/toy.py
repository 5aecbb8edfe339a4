"""Toy services for the loop's tests.

The toy policy answers `yes` with a probability that each applied step raises, from seeds alone; the toy trainer keeps
real promises (compare-and-set, one answer a request id, client_state with the step). So what these tests prove about
resuming is proved against the contract that the real services keep, and nothing of the loop is replaced.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image as Pil
from ulid import ULID

from moontune.errors import FieldViolation, RequestIdReused, RewardNotFound, StepMismatch, Unavailable
from moontune.values.finetune import Checkpoint, Finetune, LoraSettings
from moontune.values.job import DatasetSource, JobConfig
from moontune.values.model_ref import ModelRef, PolicyVersion
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardComponent, RewardResult, RewardSample, RewardSpec
from moontune.values.reward_report import RewardReport, SampleGroup
from moontune.values.rollout import Decision, FinishReason, Head, Rollout, RolloutGroup
from moontune.values.skill import Skill
from moontune.values.training import RlGroup, TrainStep, TrainStepResult

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class ToyPeers:
    """The three services in memory. fail: names of calls that answer Unavailable once each, in order."""

    def __init__(self) -> None:
        self.finetunes: dict[str, Finetune] = {}
        self.made_by: dict[str, str] = {}
        self.answers: dict[str, tuple[list[str], TrainStepResult]] = {}
        self.trained_on: list[list[str]] = []
        self.rewards_seen: list[list[tuple[float | None, ...]]] = []
        self.rates: list[float] = []
        self.states: list[bytes | None] = []
        self.saved: list[tuple[str, int]] = []
        self.fail: list[str] = []
        self.dry_runs: list[int] = []
        self.at_once = self.most_at_once = 0
        self.after_step = lambda: None

    def _maybe_fail(self, name: str) -> None:
        if self.fail and self.fail[0] == name:
            self.fail.pop(0)
            raise Unavailable(f"the {name} call failed as the test asked")

    async def create_finetune(self, name: str, lora: LoraSettings, request_id: str) -> Finetune:
        if request_id not in self.made_by:
            finetune = Finetune(str(ULID()), name, "local", "toy", "sha256:0", lora, 0, "sha256:a0", NOW, NOW)
            self.finetunes[finetune.id] = finetune
            self.made_by[request_id] = finetune.id
        return self.finetunes[self.made_by[request_id]]

    async def get_finetune(self, finetune_id: str) -> Finetune:
        self._maybe_fail("get_finetune")
        return self.finetunes[finetune_id]

    async def rollouts(self, model: str, request: SkillRequest, count: int, seed: int) -> RolloutGroup:
        import asyncio

        self._maybe_fail("rollouts")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        ref = ModelRef.parse(model)
        assert ref.finetune_id
        assert ref.step is not None
        policy = PolicyVersion("toy", "sha256:0", ref.finetune_id, ref.step, f"sha256:a{ref.step}")
        chance = min(0.95, 0.3 + 0.1 * ref.step)
        draw = random.Random(seed)
        rollouts = tuple(
            Rollout(
                Skill.QUERY,
                QueryOutput("yes" if (chance > 0.5 if count == 1 else draw.random() < chance) else "no"),
                (Decision(Head.TOKEN, 1, -0.1),),
                FinishReason.STOP,
                policy,
                seed + number,
                request.settings.temperature,
            )
            for number in range(count)
        )
        return RolloutGroup(request, rollouts)

    async def score(self, reward: RewardSpec, samples: Sequence[RewardSample]) -> Sequence[RewardResult]:
        self._maybe_fail("score")
        if reward.components[0].name == "always_0":
            return [RewardResult(0.0) for _ in samples]
        return [
            RewardResult(value := float(sample.output.answer in (sample.ground_truth.answers or ())), {"exact": value})  # type: ignore[union-attr]
            for sample in samples
        ]

    async def dry_run(self, reward: RewardSpec, groups: Sequence[SampleGroup]) -> RewardReport:
        self._maybe_fail("dry_run")
        if reward.components[0].name == "typo":
            where = "reward.components[0].name"
            raise RewardNotFound("no reward is named 'typo'", violations=[FieldViolation(where, f"{where} is 'typo'")])
        self.dry_runs.append(len(groups))
        warnings = ("a flat reward teaches nothing",) if reward.components[0].name == "always_0" else ()
        return RewardReport(len(groups), 1.0, 0.0, 0.5, 0.5, 0.0, 0.001, warnings)

    async def train_step(self, step: TrainStep) -> TrainStepResult:
        self._maybe_fail("train_step")
        groups = [group for group in step.groups if isinstance(group, RlGroup)]
        asked = [group.request.question for group in groups]
        payload = [*asked, *(str(rollout.output) for group in groups for rollout in group.rollouts)]
        if step.request_id in self.answers:
            earlier, answer = self.answers[step.request_id]
            if earlier != payload:
                raise RequestIdReused("another payload")
            return answer
        finetune = self.finetunes[step.finetune_id]
        if step.expected_step != finetune.step:
            raise StepMismatch(f"at {finetune.step}, expected {step.expected_step}")
        self.trained_on.append(asked)
        self.rewards_seen.append([group.rewards for group in groups])
        self.rates.append(step.settings.learning_rate)
        self.states.append(step.client_state)
        applied = any(len(set(group.rewards)) > 1 for group in groups)
        after = finetune.step + applied
        self.finetunes[finetune.id] = Finetune(
            finetune.id, finetune.name, "local", "toy", "sha256:0", finetune.lora, after, f"sha256:a{after}", NOW, NOW
        )
        result = TrainStepResult(after, applied, f"sha256:a{after}", "" if applied else "no signal", {"loss": 0.5})
        self.answers[step.request_id] = (payload, result)
        self.after_step()
        self._maybe_fail("after train_step")
        return result

    async def save_checkpoint(self, finetune_id: str, step: int, request_id: str, client_state: bytes) -> Checkpoint:
        self._maybe_fail("save_checkpoint")
        assert self.finetunes[finetune_id].step == step
        self.saved.append((finetune_id, step))
        return Checkpoint(str(ULID()), finetune_id, step, f"sha256:a{step}", 10, NOW)


def dataset(folder: Path, name: str, count: int, shade: int) -> DatasetSource:
    """`count` questions on images of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        Pil.new("RGB", (8, 8), (shade, number % 256, 0)).save(folder / f"{name}{number}.png")
        lines.append(f'{{"image": "{name}{number}.png", "question": "{name}{number}?", "answers": ["yes"]}}')
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(lines))
    return DatasetSource(str(file))


def config(folder: Path, **changes: object) -> JobConfig:
    """A query job of 6 steps over 12 training and 5 held-out samples, 2 groups of 4."""
    values: dict[str, object] = {
        "name": "toy",
        "skill": Skill.QUERY,
        "train": dataset(folder, "train", 12, 1),
        "held_out": dataset(folder, "held", 5, 2),
        "reward": RewardSpec((RewardComponent("exact_match"),)),
        "steps": 6,
        "groups_per_step": 2,
        "rollouts_per_group": 4,
        "warmup_steps": 2,
        "evaluate_every": 2,
        **changes,
    }
    return JobConfig(**values)  # type: ignore[arg-type]
