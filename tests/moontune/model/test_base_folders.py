"""Which folder a base's name or path means."""

from pathlib import Path

import pytest

from moontune.errors import ModelNotFound
from moontune.model.base_folders import find_base, named_base


def test_a_name_goes_before_a_folder_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder where the repository was cloned, beside which `models pull` put the base."""
    pulled = tmp_path / "models" / "moondream2"
    cloned, other = tmp_path / "here" / "moondream2", tmp_path / "here" / "other"
    for folder in (pulled, cloned, other):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    monkeypatch.setenv("MOONTUNE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path / "here")
    assert (named_base("moondream2"), find_base("moondream2")) == ("moondream2", pulled)
    assert named_base("./moondream2") == str(cloned)
    assert named_base("other") == str(other)
    (tmp_path / "here" / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"'empty' is not here; give one of .*moondream2, moontune-tiny"):
        named_base("empty")
