import os
from pathlib import Path

import pytest

GOLDEN = Path(os.environ.get("MOONTUNE_GOLDEN_DIR", Path(__file__).parents[3] / "shared" / "golden"))
"""Parity data, kept outside the repository: `../shared/golden` beside the checkout, or MOONTUNE_GOLDEN_DIR."""
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/weights_manifest.json"))


@pytest.fixture(scope="module", params=FOLDERS or [None], ids=lambda folder: folder.name if folder else "absent")
def folder(request: pytest.FixtureRequest) -> Path:
    """Each golden directory there is."""
    if request.param is None:
        pytest.skip(f"no golden data at {GOLDEN}; set MOONTUNE_GOLDEN_DIR to check parity with Moondream")
    return request.param
