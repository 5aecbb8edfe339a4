"""`python -m services.trainer`: run the trainer."""

from moontune.serving.server import run
from moontune.serving.worker_protocol import WorkerSpec
from services.trainer.config import TrainerSettings
from services.trainer.servicer import build

COMPONENTS = {"learner": "services.trainer.learner:build", "forms": "services.trainer.forms:build"}


def worker(settings: TrainerSettings) -> WorkerSpec:
    """The model worker: the base, the learner on it, and the forms that adapters come and go in."""
    return WorkerSpec(
        base=settings.base,
        device=settings.device,
        threads=settings.threads,
        components=COMPONENTS,
        options={"learner": settings.learner},
    )


def main() -> None:
    """Run the trainer."""
    run("trainer", TrainerSettings, build, worker)


if __name__ == "__main__":
    main()
