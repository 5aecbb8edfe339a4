"""`python -m services.trainer`: run the trainer."""

import sys

from moontune.serving.server import run
from moontune.serving.worker_protocol import WorkerSpec
from services.trainer.config import TrainerSettings
from services.trainer.follow import follow
from services.trainer.ranks import Ranks
from services.trainer.servicer import build

COMPONENTS = {"learner": "services.trainer.learner:build", "forms": "services.trainer.forms:build"}


def worker(settings: TrainerSettings) -> WorkerSpec:
    """The model worker: the base, the learner on it, and the forms that adapters come and go in."""
    return WorkerSpec(
        base=settings.base,
        # A base that is divided need not fit the device: it is loaded beside it, and goes there block by block.
        device="cpu" if settings.shard_base else settings.device,
        threads=settings.threads,
        components=COMPONENTS,
        options={"learner": settings.learner},
    )


def main() -> None:
    """Run the trainer; under torchrun rank 0 serves and the others follow."""
    if (rank := Ranks().rank) > 0:
        settings = TrainerSettings.load(sys.argv[1:])
        follow(settings, worker(settings), rank)
        return
    run("trainer", TrainerSettings, build, worker)


if __name__ == "__main__":
    main()
