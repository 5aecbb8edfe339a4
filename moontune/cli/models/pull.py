"""Bring a base to this machine: from the hub, or from a folder that was carried here."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from moontune.checkpoints.folder import file_entries, new_folder
from moontune.checkpoints.safetensors_header import read_header
from moontune.cli.models.hub import fetch
from moontune.cli.models.pulled import RECORD_FILE, PulledBase
from moontune.errors import InvalidField, InvalidState
from moontune.model.base_config import read_config
from moontune.model.base_folders import CONFIG_FILE, TOKENIZER_FILE, pulled_folder
from moontune.model.config import MoondreamConfig
from moontune.model.known_bases import KnownBase
from moontune.model.weight_names import own_name

Tell = Callable[[str], None]


def pull(base: KnownBase, tell: Tell, source: Path | None = None) -> Path:
    """The base's folder, complete and checked; one that is there already is left alone.

    source: a folder with the files in place of the hub. A pull that was cut is continued by the next.
    """
    final = pulled_folder(base.name)
    if base.config is None:
        raise InvalidField.of("model", base.name, "a base that is not in the package already")
    if (final / RECORD_FILE).is_file():
        return final
    if final.exists():
        raise InvalidState(
            f"{final} is there and was not pulled by moontune; move it away, or give its path as the base"
        )
    staging = final.parent / f".{base.name}.fetching"
    origin = str(source) if source is not None else _from_hub(base, staging, tell)
    files = _chosen(base, source or staging)
    with new_folder(final) as folder:
        for path in files:
            tell(f"keeping {path.name}")
            _place(path, folder / path.name, move=source is None)
        config = _config_of(base.config, source or staging, folder)
        (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        PulledBase(base.name, origin, base.licence, file_entries(folder)).write(folder)
    shutil.rmtree(staging, ignore_errors=True)
    return final


def offline_help(base: KnownBase) -> str:
    """What to do on a machine that does not reach the hub."""
    return (
        f"Without the hub: on a machine that reaches it, download {', '.join(base.weights)} of {base.repository} and "
        f"{TOKENIZER_FILE} of {base.tokenizer_repository} into one folder, carry the folder here, and run "
        f"`moontune models pull {base.name} --from FOLDER`"
    )


def _from_hub(base: KnownBase, staging: Path, tell: Tell) -> str:
    help_text = offline_help(base)
    fetched = fetch(base.repository, base.revision, base.weights, staging, tell, help_text)
    fetch(base.tokenizer_repository, "main", (TOKENIZER_FILE,), staging, tell, help_text)
    return f"{base.repository}@{fetched.commit}"


def _chosen(base: KnownBase, folder: Path) -> list[Path]:
    """The files to keep; InvalidField lists what is missing, CheckpointCorrupt a file that is cut short."""
    if not folder.is_dir():
        raise InvalidField.of("from", str(folder), "a folder")
    patterns = (*base.weights, TOKENIZER_FILE)
    found = sorted(path for path in folder.iterdir() if any(fnmatchcase(path.name, each) for each in patterns))
    weights = [path for path in found if path.suffix == ".safetensors"]
    missing = [] if weights else ["safetensors weights"]
    missing += [] if any(path.name == TOKENIZER_FILE for path in found) else [TOKENIZER_FILE]
    if missing:
        allowed = f"a folder with {', '.join(base.weights)} and {TOKENIZER_FILE}; it lacks {' and '.join(missing)}"
        raise InvalidField.of("from", str(folder), allowed)
    for path in weights:
        read_header(path)
    return found


def _config_of(config: MoondreamConfig, source: Path, folder: Path) -> MoondreamConfig:
    """What the source's own config.json says; without one the published sizes, with what only the weights tell."""
    if (source / CONFIG_FILE).is_file():
        return replace(read_config(source), name=config.name)
    # Some files have a norm before the region head.
    names = {own_name(name) for path in folder.glob("*.safetensors") for name in read_header(path)}
    return replace(config, region=replace(config.region, norm="region.ln.weight" in names))


def _place(path: Path, final: Path, *, move: bool) -> None:
    if move:
        path.replace(final)
    else:
        shutil.copyfile(path, final)
