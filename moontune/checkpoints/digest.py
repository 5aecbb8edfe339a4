"""Content digests: of a file, and of an adapter (the pair of files that decides what a policy answers)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

ADAPTER_MODEL_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_MODEL_FILE, ADAPTER_CONFIG_FILE)
"""The files an adapter consists of, in PEFT's layout."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; read in pieces, so that memory does not grow with the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapter_digest(sha256_by_name: Mapping[str, str]) -> str:
    """`sha256:<64 hex>` naming an adapter's content.

    It is the SHA-256 over the lines `<name> NUL <file sha256> LF` of ADAPTER_FILES, sorted by name; other names in
    the mapping (optimiser, trainer state) do not count, because they do not change an answer.

    Args:
        sha256_by_name: at least the files of ADAPTER_FILES with the SHA-256 of each, 64 hex digits.

    Raises:
        KeyError: one of ADAPTER_FILES is missing.
    """
    digest = hashlib.sha256()
    for name in sorted(ADAPTER_FILES):
        digest.update(f"{name}\0{sha256_by_name[name]}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def adapter_digest_of(folder: Path) -> str:
    """`adapter_digest` of the two adapter files in this folder."""
    return adapter_digest({name: sha256_file(folder / name) for name in ADAPTER_FILES})
