"""Run under torchrun by test_ranks.py: a learner over the gang, without the service around it; writes what came of it.

python ranks_script.py BASE OUT STEPS PRECISION

PRECISION: single, double, or divided: single, with the base's blocks divided among the ranks and many small passes.
"""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import torch

from moontune.model.base_model import load_base, share_base
from moontune.values.skill import Skill
from moontune.values.training import LossKind, TrainSettings
from services.trainer.gang import Alone, TorchGang
from services.trainer.learner import Learner, learner_of
from services.trainer.orders import LearnerOptions, ScoreOrder
from services.trainer.ranks import Ranks
from tests.services.trainer.made import Bench, Calling, policy_of, rl_group, sft_group


def main() -> None:
    base_folder, out, steps, precision = sys.argv[1:]
    torch.set_num_threads(1)
    ranks = Ranks()
    base = load_base(base_folder, device="cpu")
    if precision == "double":
        torch.Tensor.float = torch.Tensor.double
        torch.set_default_dtype(torch.float64)
    gang = TorchGang(ranks, "cpu") if ranks.world_size > 1 else Alone()
    options = LearnerOptions(micro_tokens=64, recompute=True) if precision == "divided" else LearnerOptions()
    if precision == "divided" and ranks.world_size > 1:
        learner = learner_of(base, replace(options, shard_base=True, device="cpu"), gang)
    else:
        learner = Learner(share_base(base), options, gang)
    folder = Path(out) / f"rank-{ranks.rank}"
    bench = Bench(base, folder, learner=learner)  # each rank writes its own step 0, from the same seed
    if precision == "double":
        learner._base.module.double()
    gradients: list[torch.Tensor] = []
    live = learner._live.take(bench.finetune, bench.step_folder)
    learner._live.keep(live, bench.step_folder)
    live.optimiser.register_step_pre_hook(lambda *_: gradients.append(flat(p.grad for p in live.parameters.values())))
    policy = policy_of(bench.finetune)
    # 5 groups of different sizes: two ranks cannot share them evenly.
    sizes = ((Skill.DETECT, 8), (Skill.QUERY, 2), (Skill.POINT, 3), (Skill.QUERY, 5))
    groups = [
        rl_group(skill, seed, policy, tuple((seed + i) % 3 / 2 for i in range(count)), verified=False)
        for seed, (skill, count) in enumerate(sizes)
    ]
    lessons = [sft_group(Skill.DETECT, 9)]
    settings = TrainSettings(learning_rate=1e-3, loss=LossKind.DAPO, kl_weight=0.05, entropy_weight=0.01, passes=1)
    metrics = []
    for step in range(int(steps)):
        order = bench.order([*groups, *lessons], settings=settings)
        metrics.append(dict(learner.train(Calling(), order).metrics))
        bench.step_folder = Path(order.new_folder)  # written by rank 0 alone; in memory on all
        bench.finetune = replace(bench.finetune, step=step + 1)
    found = {name: parameter.detach().clone() for name, parameter in live.parameters.items()}
    if precision == "divided":
        Path(out, f"divided-{ranks.rank}.pickle").write_bytes(pickle.dumps(divided(bench, groups[:2])))
    Path(out, f"result-{ranks.rank}.pickle").write_bytes(pickle.dumps((gradients, found, metrics)))


def divided(bench: Bench, groups) -> tuple[dict[str, int], object]:
    """Bytes of the base's text blocks here; on rank 0 also the groups' scores, while the others attend."""
    learner, scores = bench.learner, None
    base = {name: p for name, p in learner._base.module.text.blocks.named_parameters() if "lora" not in name}
    held = {name: getattr(p, "to_local", lambda p=p: p)().nbytes for name, p in base.items()}
    if learner._gang.rank:
        learner.attend()
    else:
        spool = str(bench.spool(groups).folder)
        scores = learner.score(Calling(), ScoreOrder(bench.finetune, str(bench.step_folder), spool, len(groups)))
    return held, scores


def flat(tensors) -> torch.Tensor:
    return torch.cat([torch.zeros(0) if each is None else each.detach().flatten().double() for each in tensors])


if __name__ == "__main__":
    main()
