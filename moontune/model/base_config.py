"""The config of a base's folder: ours, or the one that a published repository has beside its weights. Torch-free.

A repository's config.json says little or nothing (`"config": {}`): what it leaves out are the published model's values,
and the rest is read off the weights (`published_config`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from moontune.checkpoints.safetensors_header import read_header
from moontune.errors import InvalidField
from moontune.model.base_folders import CONFIG_FILE
from moontune.model.config import MoondreamConfig
from moontune.model.published_config import published_config
from moontune.model.weight_names import own_name

Shapes = dict[str, tuple[int, ...]]
_PUBLISHED_KEYS = ("architectures", "model_type", "auto_map")
"""Of a hub repository's config.json; its sizes, where it has any, are under `config`."""
_SECTIONS = ("text", "vision", "region")


def read_config(folder: Path, shapes: Callable[[], Shapes] | None = None) -> MoondreamConfig:
    """The config of a folder; raises InvalidField, listing everything that does not fit, or CheckpointCorrupt.

    shapes: gives the stored tensors' shapes by our names, for a config that needs them; None reads the headers of the
    folder's safetensors files.
    """
    path = folder / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField.of("base", str(path), f"a readable file ({error})") from error
    sections = _published_sections(text)
    if sections is None:
        return MoondreamConfig.from_json(text)
    found = (shapes or (lambda: _shapes_in_headers(folder)))()
    # What is read from a stranger's file is held to the same rules as our own.
    return MoondreamConfig.from_json(published_config(sections, found).to_json())


def _published_sections(text: str) -> dict[str, Any] | None:
    """The sections of a published config; None for one of ours, and for what is neither."""
    try:
        tree = cast("object", json.loads(text))
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict):
        return None
    fields = cast("dict[str, Any]", tree)
    if any(key in fields for key in _PUBLISHED_KEYS):
        sizes = cast("object", fields.get("config"))
        return cast("dict[str, Any]", sizes) if isinstance(sizes, dict) else {}
    if not all(isinstance(fields.get(key), dict) for key in _SECTIONS) or "n_layers" not in fields["text"]:
        return None
    return fields


def _shapes_in_headers(folder: Path) -> Shapes:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        allowed = "safetensors weights beside a published config.json, or the config.json that `models pull` writes"
        raise InvalidField.of("base", str(folder), allowed)
    return {own_name(name): tensor.shape for path in files for name, tensor in read_header(path).items()}
