import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """Parity data, kept outside the repository: `../shared/golden` beside the checkout, or MOONTUNE_GOLDEN_DIR."""
    default = Path(__file__).parents[3] / "shared" / "golden"
    folder = Path(os.environ.get("MOONTUNE_GOLDEN_DIR", default))
    if not folder.is_dir():
        pytest.skip(f"no golden data at {folder}; set MOONTUNE_GOLDEN_DIR to check parity with Moondream")
    return folder
