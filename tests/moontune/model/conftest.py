from pathlib import Path

import pytest

from moontune.model.base_model import BaseModel
from tests.fakes.tiny_base import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Shared and never adapted: tests that attach adapters take `share_base(base)`."""
    return tiny_base(Path(tmp_path_factory.mktemp("base")))
