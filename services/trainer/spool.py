"""The groups of one step on disk, from their arrival until the step is done.

The front writes one file per group while the stream comes in, images apart and once each by their SHA-256; the learner
reads a group when its turn comes. So memory grows with neither the number of groups nor that of images. The files are
pickles of our own frozen values, written and read by one build on one machine, under a folder of this service alone.
"""

import hashlib
import pickle
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ulid import ULID

from moontune.checkpoints.disk import REFUSALS, disk_error
from moontune.errors import ImageUnknown
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.training import Group, RlGroup


class Spool:
    """A folder of groups and images."""

    def __init__(self, folder: Path) -> None:
        """Use a folder that is there."""
        self.folder = folder

    def add_image(self, image: Image, field: str) -> Image:
        """Keep the image's bytes; returns it by name alone.

        Raises:
            ImageUnknown: only its digest was given and no group before brought the bytes.
        """
        path = self._image_path(image.sha256)
        if image.data is not None:
            digest = hashlib.sha256(image.data).hexdigest()
            path = self._image_path(digest)
            if not path.exists():
                path.write_bytes(image.data)
            return Image(digest)
        if not path.exists():
            raise ImageUnknown(
                f"{field} names image {image.sha256} by digest and no earlier group of this step brought its bytes",
                metadata={"sha256": image.sha256, "field": field},
            )
        return image.named()

    def add_group(self, index: int, group: Group) -> None:
        """Keep a group; its image must be by name alone."""
        self._group_path(index).write_bytes(pickle.dumps(group, protocol=pickle.HIGHEST_PROTOCOL))

    def group(self, index: int) -> Group:
        """The group at this place in the stream, its image by name."""
        return pickle.loads(self._group_path(index).read_bytes())  # noqa: S301  (our own file, see above)

    def image(self, sha256: str) -> bytes:
        """An image's encoded bytes."""
        return self._image_path(sha256).read_bytes()

    def _group_path(self, index: int) -> Path:
        return self.folder / f"group-{index:05d}.pickle"

    def _image_path(self, sha256: str) -> Path:
        return self.folder / f"image-{sha256}"


def named_request(request: SkillRequest, spool: Spool, field: str) -> SkillRequest:
    """The request with its image kept in the spool and named by digest."""
    if request.image is None:
        return request
    return replace(request, image=spool.add_image(request.image, f"{field}.image"))


def named_group(group: Group, spool: Spool, field: str) -> Group:
    """The group with its image kept in the spool and named by digest."""
    request = named_request(group.request, spool, f"{field}.request")
    if isinstance(group, RlGroup):
        return replace(group, request=request)
    return replace(group, request=request)


@contextmanager
def new_spool(parent: Path) -> Generator[Spool]:
    """A spool for one call, removed at its end whatever happens; a disk that is full or read-only is told as such."""
    folder = parent / str(ULID())
    try:
        folder.mkdir(parents=True)
        yield Spool(folder)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise disk_error(error, "the files of this call cannot be kept; nothing was changed") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_spools(parent: Path) -> None:
    """Remove what a killed process left. Only at start, before any call."""
    shutil.rmtree(parent, ignore_errors=True)
