"""Image files named by a data set: inside its folder, present, and of a kind that the model reads."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from moontune.imaging.decode import ImageLimits, inspect_image


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that passed: where it is (absolute), SHA-256 of its bytes (64 hex digits), its size in pixels."""

    path: Path
    sha256: str
    width: int
    height: int


def locate(folder: Path, name: str) -> Path:
    """The file `name` below `folder`, links followed; ValueError in words if it is outside or absent."""
    if not name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or "\0" in name:
        raise ValueError(f"image name {name!r} is not a path relative to the data set's folder")
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"image {name!r} leads outside the data set's folder {root}")
    if not path.is_file():
        raise ValueError(f"image {name!r} is not there: no file {path}")
    return path


def inspect(path: Path) -> ImageFile:
    """Header and digest of one file; ImageTooLarge or ImageInvalid, naming the file, if it may not be used."""
    limit = ImageLimits().encoded_bytes
    with path.open("rb") as stream:
        data = stream.read(limit + 1)  # one byte more tells a file that is too large from one that just fits
    info = inspect_image(data, path.name)
    return ImageFile(path, hashlib.sha256(data).hexdigest(), info.width, info.height)
