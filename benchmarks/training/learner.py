"""The learner without the service around it, one step at a time; also run by itself, under torchrun or for its memory.

    python -m benchmarks.training.learner BASE FOLDER GROUPS ROLLOUTS LENGTH MICRO_TOKENS STEPS

prints one JSON line: seconds of each step, and the peak of resident memory above what it was before the first.
"""

import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.training.groups import groups
from moontune.model.base_model import BaseModel, load_base, share_base
from moontune.values.finetune import Finetune, FinetuneKind, LoraSettings
from moontune.values.skill import Skill
from moontune.values.training import RlGroup, TrainSettings
from services.trainer.gang import Alone, Gang, TorchGang
from services.trainer.learner import Learner
from services.trainer.line import Line
from services.trainer.orders import CreateOrder, LearnerOptions, StepOutcome, TrainOrder
from services.trainer.ranks import Ranks
from services.trainer.spool import Spool, named_group

SETTINGS = TrainSettings(learning_rate=1e-4)


class Caller:
    """Never leaves."""

    def cancelled(self) -> bool:
        """Always false."""
        return False


class Steps:
    """A finetune and the steps applied to it."""

    def __init__(
        self,
        base: BaseModel,
        folder: Path,
        options: LearnerOptions,
        gang: Gang | None = None,
        kind: FinetuneKind = FinetuneKind.LORA,
    ) -> None:
        self.learner, self._folder = Learner(share_base(base), options, gang or Alone()), folder
        now = datetime.now(UTC)
        self._finetune = Finetune(
            "01HZZZZZZZZZZZZZZZZZZZZZZZ", "b", "local", base.name, base.digest, LoraSettings(8), 0, "", now, now, kind
        )
        self._at = folder / "step-0"
        written = self.learner.create(Caller(), CreateOrder(self._finetune, str(self._at)))
        self._finetune = replace(self._finetune, adapter_digest=written.adapter_digest)

    def spool(self, found: list[RlGroup]) -> Spool:
        """The groups on disk, as the front leaves them there."""
        folder = self._folder / "spool"
        folder.mkdir(parents=True, exist_ok=True)
        spool = Spool(folder)
        for index, group in enumerate(found):
            spool.add_group(index, named_group(group, spool, ""))
        return spool

    def apply(self, spool: Spool, count: int) -> StepOutcome:
        """One step; on every rank the finetune is then the new one."""
        step = self._finetune.step + 1
        line = Line(dict.fromkeys(range(step - 1, -1, -1), ""))
        new = self._folder / f"step-{step}"
        order = TrainOrder(
            finetune=self._finetune,
            line=line,
            folder=str(self._at),
            spool=str(spool.folder),
            groups=count,
            settings=SETTINGS,
            step=step,
            new_folder=str(new),
        )
        outcome = self.learner.train(Caller(), order)
        self._at, self._finetune = new, replace(self._finetune, step=step)
        return outcome


def main() -> None:
    """One process's measurement; see the module's docstring."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    count, rollouts, length, micro_tokens, steps = (int(text) for text in sys.argv[3:])
    torch.set_num_threads(1)
    ranks = Ranks()
    base = load_base(name, device="cpu")
    gang = TorchGang(ranks, "cpu") if ranks.world_size > 1 else Alone()
    work = Steps(base, folder / f"rank-{ranks.rank}", LearnerOptions(micro_tokens=micro_tokens), gang)
    spool = work.spool(groups(Skill.DETECT, count, rollouts, length))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = _status_bytes("VmRSS")
    seconds: list[float] = []
    for _ in range(steps):
        started = time.perf_counter()
        work.apply(spool, count)
        seconds.append(time.perf_counter() - started)
    if ranks.rank == 0:
        print(json.dumps({"seconds": seconds, "grown_bytes": _status_bytes("VmHWM") - before}))


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
