"""What there is to know of bases on this machine: the rows of list and show, and what verify finds."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from moontune.checkpoints.safetensors_header import StoredTensor, read_header
from moontune.cli.models.pull import pull
from moontune.cli.models.pulled import PulledBase, damaged_files
from moontune.model.base_config import read_config
from moontune.model.base_folders import find_base, local_bases
from moontune.model.known_bases import KNOWN_BASES, known_base

UNKNOWN_LICENCE = "not known to moontune; ask whoever made it"
Row = Mapping[str, object]


def listed() -> list[Row]:
    """Every base that moontune knows or that is here, with its licence."""
    here, known = local_bases(), {base.name: base for base in KNOWN_BASES}
    rows: list[Row] = [
        {"base": base.name, "licence": base.licence, "here": base.name in here, "what": base.description}
        for base in KNOWN_BASES
    ]
    return rows + [
        {"base": name, "licence": UNKNOWN_LICENCE, "here": True, "what": str(folder)}
        for name, folder in here.items()
        if name not in known
    ]


def shown(name: str) -> Row:
    """A base's licence, where it is published, and what its folder says."""
    known = next((base for base in KNOWN_BASES if base.name == name), None)
    row: dict[str, object] = {"base": name, "licence": known.licence if known else UNKNOWN_LICENCE}
    if known is not None and known.note:
        row["licence says"] = known.note
    if known is not None and known.repository:
        row["published at"] = f"{known.repository} (tokenizer: {known.tokenizer_repository})"
    if known is not None and name not in local_bases():
        return {**row, "here": f"no; `moontune models pull {name}` fetches it"}
    return {**row, **_on_disk(find_base(name))}


def fetched(name: str, source: Path | None, tell: Callable[[str], None]) -> Path:
    """Pull a known base; its folder."""
    base = known_base(name)
    tell(f"{base.name}: licence {base.licence}. {base.note}".rstrip())
    return pull(base, tell, source)


def problems_of(name: str, tell: Callable[[str], None]) -> list[str]:
    """What is wrong with a base: digests against its record, then config, tokenizer and every weight."""
    folder = find_base(name)
    record = PulledBase.read(folder)
    problems = [] if record is None else damaged_files(record, folder, tell)
    if record is None:
        tell("it was not pulled, so there are no digests to check")
    for path in sorted(folder.glob("*.safetensors")):
        read_header(path)
    if importlib.util.find_spec("torch") is None:
        tell("the weights themselves were not looked at: that needs `pip install 'moontune[torch]'`")
        return problems
    return problems + _weight_problems(folder)


def _on_disk(folder: Path) -> Row:
    config = read_config(folder)
    record = PulledBase.read(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_header(path)
    text, moe = config.text, config.text.moe
    experts = f", {moe.experts} experts of which {moe.experts_per_token} act" if moe else ""
    return {
        "folder": str(folder),
        "from": record.source if record is not None else "not pulled",
        "text": f"{text.layers} layers of width {text.dim}, {text.heads} heads, context {text.max_context}{experts}",
        "vision": f"{config.vision.layers} layers of width {config.vision.dim}, crops of {config.vision.crop_size} px",
        "weights": f"{len(tensors)} tensors, {sum(each.size_bytes for each in tensors.values()) / 1e6:.1f} MB, "
        + ", ".join(sorted({each.dtype for each in tensors.values()})),
    }


def _weight_problems(folder: Path) -> list[str]:
    """In a process of its own: the command line never loads torch."""
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "moontune.model.verify", str(folder)], capture_output=True, text=True, check=False
    )
    if ran.returncode not in (0, 1):
        return [f"the check itself ended with {ran.returncode}: {ran.stderr.strip()[-400:]}"]
    return ran.stdout.splitlines()
