"""`python -m services.inference`: run the inference service."""

from moontune.serving.server import run
from services.inference.config import InferenceSettings
from services.inference.servicer import build


def main() -> None:
    """Run the inference service until it is told to stop."""
    run("inference", InferenceSettings, build, InferenceSettings.worker)


if __name__ == "__main__":
    main()
