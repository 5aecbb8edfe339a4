"""`python -m services.reward`: run the reward service."""

from moontune.serving.server import run
from services.reward.config import RewardSettings
from services.reward.servicer import build


def main() -> None:
    """Run the reward service until it is told to stop."""
    run("reward", RewardSettings, build)


if __name__ == "__main__":
    main()
