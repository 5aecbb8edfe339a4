"""`python -m services.jobs`: the jobs service."""

from moontune.serving.server import run
from services.jobs.config import JobsSettings
from services.jobs.servicer import build


def main() -> None:
    """Run the jobs service."""
    run("jobs", JobsSettings, build)


if __name__ == "__main__":
    main()
