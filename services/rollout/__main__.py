"""`python -m services.rollout`: run the rollout service."""

from moontune.serving.server import run
from services.rollout.config import RolloutSettings
from services.rollout.servicer import build


def main() -> None:
    """Run the rollout service until it is told to stop."""
    run("rollout", RolloutSettings, build, RolloutSettings.worker)


if __name__ == "__main__":
    main()
