"""What the demo runs: two scenes, their data, and the jobs over them. Every number that was chosen is here."""

from dataclasses import dataclass
from pathlib import Path

from examples.demo.scenes import SceneStyle
from moontune.values.finetune import LoraSettings
from moontune.values.job import DatasetSource, JobConfig, Schedule
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings

HELD_OUT_SCENES = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """One scene of the demo: how its pictures look, how many there are, what is asked, and what is wanted.

    category: only digits of this COCO category are wanted; "" wants all of them. metrics: the evaluator's names, the
    one to show first. known_words: how the base was taught to name the same things, for comparison; "" where that
    is what is asked.
    """

    name: str
    title: str
    style: SceneStyle
    train_scenes: int
    skill: Skill
    asked: str
    category: str
    metrics: tuple[str, ...]
    reward: RewardSpec
    steps: int
    groups: int
    rollouts: int
    learning_rate: float
    temperature: float
    evaluate_every: int
    known_words: str = ""

    def job(self, data: Path, seed: int, *, shuffle_rewards: bool = False) -> JobConfig:
        """The job over `<data>/<name>-train-<seed>` and `<data>/<name>-held-out`."""
        train = data / f"{self.name}-train-{seed}" / "annotations.json"
        held_out = data / f"{self.name}-held-out" / "annotations.json"
        return JobConfig(
            name=f"{self.name} seed {seed}" + (" shuffled" if shuffle_rewards else ""),
            skill=self.skill,
            train=DatasetSource(str(train), self.asked, self.category),
            held_out=DatasetSource(str(held_out), self.asked, self.category),
            reward=self.reward,
            steps=self.steps,
            lora=LoraSettings(rank=8, seed=seed),
            settings=TrainSettings(learning_rate=self.learning_rate),
            sampling=SamplingSettings(self.temperature, 1.0, max_tokens=96, max_objects=16),
            groups_per_step=self.groups,
            rollouts_per_group=self.rollouts,
            schedule=Schedule.LINEAR,
            warmup_steps=5,
            evaluate_every=self.evaluate_every,
            seed=seed,
            shuffle_rewards=shuffle_rewards,
        )


DIGITS = Plan(
    name="digits",
    title="Find handwritten digits on photographs",
    style=SceneStyle(most_digits=2),
    train_scenes=240,
    skill=Skill.DETECT,
    asked="handwritten digit",
    category="",
    metrics=("f1_iou50", "f1_iou75"),
    reward=RewardSpec((RewardComponent("hard_f_beta", 0.5), RewardComponent("soft_f_beta", 0.5))),
    steps=40,
    groups=8,
    rollouts=8,
    learning_rate=4e-3,
    temperature=0.7,
    evaluate_every=20,
    known_words="digit",
)
"""Labels exist here, and the reward is made of them: half F1 at IoU 0.5, half the total IoU, so that it has degrees.

The base was taught "digit" on drawn scenes and never met the word "handwritten": with it the base finds about half as
much. The report has its score for "digit" too: what is gained beyond that is more than the meaning of a word.
"""

PREFERENCE = Plan(
    name="red",
    title="Point at digits; only the red ones count",
    style=SceneStyle(mixed=True),
    train_scenes=200,
    skill=Skill.POINT,
    asked="digit",
    category="red",
    metrics=("f1_in_box",),
    reward=RewardSpec((RewardComponent("point_in_box"),)),
    steps=30,
    groups=8,
    rollouts=8,
    learning_rate=4e-3,
    temperature=1.0,
    evaluate_every=15,
)
"""The prompt still says "digit": that only red ones are wanted is known to the reward alone."""
