"""Files of a repository on the Hugging Face hub, by huggingface_hub: continued where cut, checked against its digests.

huggingface_hub starts a file anew when a process ends half-way; weights are too large for that, so a file grows under
its name and `.part`, and the next pull goes on from its end.
"""

import fnmatch
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from moontune.checkpoints.digest import sha256_file
from moontune.errors import CheckpointCorrupt, InvalidState, ModelNotFound, PermissionDenied

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_HTTP_LIBRARIES = ("httpx", "httpcore", "httpx2", "httpcore2", "requests")
"""Whose own errors huggingface_hub lets through."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The commit that files were taken from, and their names."""

    commit: str
    names: tuple[str, ...]


def fetch(
    repository: str, revision: str, patterns: Sequence[str], into: Path, tell: Callable[[str], None], offline_help: str
) -> Fetched:
    """Download the files that match a pattern into a folder; files already there whole are not fetched again.

    Raises ModelNotFound (no network, no such repository; ends with `offline_help`), PermissionDenied for a repository
    whose terms were not accepted, CheckpointCorrupt for a file that is not what the hub says, InvalidState without
    huggingface_hub.
    """
    try:
        from huggingface_hub import HfApi, errors
    except ImportError as error:
        raise InvalidState("huggingface_hub is not installed; `pip install 'moontune[torch]'` brings it") from error
    into.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        wanted = [file for file in info.siblings or [] if _matches(file.rfilename, patterns)]
        for file in wanted:
            tell(f"{repository}/{file.rfilename}: {(file.size or 0) / 1e6:.1f} MB")
            _fetch_one(repository, str(info.sha), file, into)
    except errors.GatedRepoError as error:
        raise PermissionDenied(
            f"{repository} asks you to accept its terms first: do so on its page, then give your token in HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        _unreachable(repository, error, offline_help)
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES:
            _unreachable(repository, error, offline_help)
        raise
    if not wanted:
        raise ModelNotFound(f"{repository}@{revision} has no file like {', '.join(patterns)}")
    return Fetched(str(info.sha), tuple(file.rfilename for file in wanted))


def _fetch_one(repository: str, commit: str, file: "RepoSibling", into: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.file_download import http_get  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]

    final, part = into / file.rfilename, into / f"{file.rfilename}.part"
    if final.exists():
        return
    url = hf_hub_url(repository, file.rfilename, revision=commit)
    place = get_hf_file_metadata(url).location
    # A token is for the hub, not for the store of files that it may send us to.
    headers = build_hf_headers() if urlsplit(place).netloc == urlsplit(url).netloc else {}
    with part.open("ab") as growing:
        http_get(place, growing, resume_size=growing.tell(), headers=headers, expected_size=file.size)
    _check(part, file)
    part.replace(final)


def _unreachable(repository: str, error: Exception, offline_help: str) -> NoReturn:
    raise ModelNotFound(f"{repository} cannot be fetched ({error}). {offline_help}") from error


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check(path: Path, file: "RepoSibling") -> None:
    """A large file has the SHA-256 of its content as its name there, a small one the SHA-1 of a git blob."""
    if file.lfs is not None:
        wanted, found = file.lfs.sha256, sha256_file(path)
    elif file.blob_id is not None:
        content = path.read_bytes()
        wanted = file.blob_id
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != wanted:
        path.unlink()
        said = f"{file.rfilename} came with digest {found}; the hub says {wanted}"
        raise CheckpointCorrupt(f"{said}. It was deleted; try again")
