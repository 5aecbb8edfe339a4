"""Where a job may read its data sets from."""

from collections.abc import Sequence
from pathlib import Path

from moontune.errors import InvalidField, NotImplementedYet
from moontune.values.job import DatasetSource


def check_source(source: DatasetSource, roots: Sequence[Path], field: str, *, loopback: bool) -> None:
    """Refuse URLs and uploads (not built yet) and paths outside `roots`; without roots any path, on loopback only."""
    if "://" in source.path or source.path.startswith("dataset:"):
        raise NotImplementedYet(f"{field}.path {source.path!r}: this build reads data sets from local paths only")
    path = Path(source.path).expanduser()
    if not path.is_absolute():
        raise InvalidField.of(f"{field}.path", source.path, "an absolute path on the jobs service's machine")
    if not roots and not loopback:
        raise InvalidField.of(
            f"{field}.path", source.path, "a path below dataset_roots, which this service's operator has left empty"
        )
    resolved = path.resolve()
    if roots and not any(resolved.is_relative_to(root.expanduser().resolve()) for root in roots):
        raise InvalidField.of(f"{field}.path", source.path, "below " + " or ".join(map(str, roots)))
