"""Groups made by hand for the trainer's tests: valid decisions of every skill, on drawn pictures.

Log-probabilities are recorded by asking the learner itself (`on_policy`), so that a group is exactly on policy.
"""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from PIL import Image as PilImage
from PIL import ImageDraw

from moontune.model.base_model import BaseModel
from moontune.values.finetune import Finetune, FinetuneKind, LoraSettings, LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import DetectOutput, PointOutput, QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head, Rollout
from moontune.values.skill import Skill
from moontune.values.training import Group, RlGroup, SftGroup, TrainSettings
from services.trainer.batch import micro_batches, plan_batch
from services.trainer.health import StepHealth
from services.trainer.images import StepImages
from services.trainer.learner import Learner
from services.trainer.line import Line
from services.trainer.losses import LOSSES
from services.trainer.orders import CreateOrder, LearnerOptions, ScoreOrder, StepOutcome, TrainOrder
from services.trainer.passes import BatchPass
from services.trainer.prepared import StepGroups
from services.trainer.spool import Spool, named_group
from tests.fakes.tiny_base import tiny_base

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTPUTS = {
    Skill.QUERY: QueryOutput("x"),
    Skill.POINT: PointOutput(()),
    Skill.DETECT: DetectOutput(()),
}


class Calling:
    """A call context that nobody cancels."""

    def cancelled(self) -> bool:
        return False


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image:
    rng = random.Random(seed)
    image = PilImage.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    for _ in range(4):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        ImageDraw.Draw(image).ellipse((x - 8, y - 8, x + 8, y + 8), fill=tuple(rng.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Image.of(file.getvalue())


def request(skill: Skill, seed: int, image: Image | None = None) -> SkillRequest:
    image = image or picture(seed)
    if skill is Skill.QUERY:
        return SkillRequest(skill, image, question=f"what is it {seed}?")
    return SkillRequest(skill, image, object=f"thing {seed}")


def decisions(skill: Skill, rng: random.Random) -> tuple[Decision, ...]:
    if skill is Skill.QUERY:
        ids = [rng.randrange(20, 200) for _ in range(rng.randrange(1, 5))]
        return tuple(Decision(Head.TOKEN, token, -1.0) for token in (*ids, 0))
    numbers = (Head.X, Head.Y, Head.WIDTH, Head.HEIGHT) if skill is Skill.DETECT else (Head.X, Head.Y)
    taken: list[Decision] = []
    for _ in range(rng.randrange(3)):
        taken += [Decision(Head.GO, 1, -1.0), *(Decision(head, rng.randrange(1024), -1.0) for head in numbers)]
    return (*taken, Decision(Head.GO, 0, -1.0))


def rl_group(
    skill: Skill,
    seed: int,
    policy: PolicyVersion,
    rewards: tuple[float | None, ...] = (1.0, 0.0, 0.5, 0.25),
    image: Image | None = None,
    verified: bool = True,
    temperature: float = 1.0,
) -> RlGroup:
    rng = random.Random(seed)
    rollouts = tuple(
        Rollout(skill, OUTPUTS[skill], decisions(skill, rng), FinishReason.STOP, policy, index, temperature)
        for index in range(len(rewards))
    )
    return RlGroup(request(skill, seed, image), rollouts, rewards, verified)


def sft_group(skill: Skill, seed: int) -> SftGroup:
    if skill is Skill.QUERY:
        return SftGroup(request(skill, seed), QueryOutput("red"))
    if skill is Skill.POINT:
        return SftGroup(request(skill, seed), GroundTruth(points=(Point(0.7, 0.2), Point(0.1, 0.9))))
    return SftGroup(request(skill, seed), GroundTruth(boxes=(Box(0.5, 0.1, 0.9, 0.4), Box(0.1, 0.1, 0.3, 0.6))))


def policy_of(finetune: Finetune) -> PolicyVersion:
    return PolicyVersion(finetune.base, finetune.base_digest, finetune.id, finetune.step, finetune.adapter_digest)


def line_of(step: int) -> Line:
    """A line without restores up to this step."""
    return Line({known: f"digest-{known}" for known in range(step, -1, -1)})


class Bench:
    """A learner called directly, with a finetune that it keeps track of as the front does."""

    def __init__(
        self,
        base: BaseModel,
        folder: Path,
        lora: LoraSettings | None = None,
        micro: int = 4096,
        kind: FinetuneKind = FinetuneKind.LORA,
        name: str = "01HZZZZZZZZZZZZZZZZZZZZZZZ",
        learner: Learner | None = None,
    ) -> None:
        self.base, self.folder = base, folder
        self.options = LearnerOptions(micro_tokens=micro)
        self.learner = learner or self.new_learner()
        self.count = 0
        finetune = Finetune(name, "f", "local", base.name, base.digest, lora or LoraSettings(4), 0, "", NOW, NOW, kind)
        self.step_folder = folder / "step-0"
        written = self.learner.create(Calling(), CreateOrder(finetune, str(self.step_folder)))
        self.finetune = replace(finetune, adapter_digest=written.adapter_digest)

    def new_learner(self) -> Learner:
        from moontune.model.base_model import share_base

        return Learner(share_base(self.base), self.options)

    def restart(self) -> None:
        self.learner = self.new_learner()

    def spool(self, groups: list[Group]) -> Spool:
        self.count += 1
        folder = self.folder / f"spool-{self.count}"
        folder.mkdir(parents=True)
        spool = Spool(folder)
        for index, group in enumerate(groups):
            spool.add_group(index, named_group(group, spool, f"groups[{index}]"))
        return spool

    def order(self, groups: list[Group], **fields) -> TrainOrder:
        spool = self.spool(groups)
        step = self.finetune.step + 1
        return TrainOrder(
            finetune=self.finetune,
            line=line_of(self.finetune.step),
            folder=str(self.step_folder),
            spool=str(spool.folder),
            groups=len(groups),
            settings=fields.pop("settings"),
            step=step,
            new_folder=str(self.folder / f"step-{step}-{self.count}"),
            **fields,
        )

    def train(self, groups: list[Group], settings, **fields) -> StepOutcome:
        order = self.order(groups, settings=settings, **fields)
        outcome = self.learner.train(Calling(), order)
        if outcome.written is not None:
            self.step_folder = Path(order.new_folder)
            self.finetune = replace(
                self.finetune, step=self.finetune.step + 1, adapter_digest=outcome.written.adapter_digest
            )
        return outcome

    def on_policy(self, group: RlGroup) -> RlGroup:
        spool = self.spool([group])
        scores = self.learner.score(Calling(), ScoreOrder(self.finetune, str(self.step_folder), str(spool.folder), 1))
        rollouts = tuple(
            replace(
                rollout,
                policy=policy_of(self.finetune),
                decisions=tuple(
                    replace(decision, logprob=score.logprob)
                    for decision, score in zip(rollout.decisions, scored, strict=True)
                ),
            )
            for rollout, scored in zip(group.rollouts, scores, strict=True)
        )
        return replace(group, rollouts=rollouts)


def gradient_of(bench: Bench, groups, settings: TrainSettings, micro: int = 4096) -> torch.Tensor:
    """The gradient of the step's loss, all parameters flat."""
    learner, spool = bench.learner, bench.spool(groups)
    own = learner._base
    live = learner._live.take(bench.finetune, bench.step_folder)
    read = StepGroups(spool, settings, bench.finetune.step + 1, own.config, own.tokenizer)
    plan = plan_batch(read, len(groups), line_of(bench.finetune.step), settings, LOSSES[settings.loss][1])
    learner._adapters.activate(bench.finetune.id)
    live.optimiser.zero_grad(set_to_none=True)
    images = StepImages(own.module, spool, 2**20, trained=LoraTarget.VISION in bench.finetune.lora.targets)
    one_pass = BatchPass(own, learner._adapters, read, images, settings, StepHealth(), learner._recompute)
    for batch in micro_batches(plan.groups, micro):
        one_pass.run(batch)
    found = torch.cat([p.grad.flatten().double() for p in live.parameters.values() if p.grad is not None])
    live.optimiser.zero_grad(set_to_none=True)
    learner._adapters.activate(None)
    learner._live.keep(live, bench.step_folder)
    return found.clone()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= 1e-6 * max(a.norm(), b.norm()))


@contextmanager
def double_bench(folder: Path) -> Iterator[Bench]:
    """A finetune one supervised step away from the base, in fp64, what is done in fp32 for accuracy's sake too."""
    base = tiny_base(folder / "base")
    single, dtype = torch.Tensor.float, torch.get_default_dtype()
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        made = Bench(base, folder)
        made.learner._base.module.double()
        assert made.train([sft_group(Skill.DETECT, 90)], TrainSettings(learning_rate=1e-2)).written
        yield made
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(dtype)
