"""A base model on disk and in memory: a folder with config.json, model.safetensors and tokenizer.json."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from moontune.model.base_config import read_config
from moontune.model.base_folders import CONFIG_FILE, TOKENIZER_FILE, ModelSettings, find_base
from moontune.model.config import MoondreamConfig
from moontune.model.device import choose_device, compile_backend, default_dtype
from moontune.model.moondream import Moondream
from moontune.model.tokenizer import Tokenizer
from moontune.model.weight_files import stored_shapes, weight_files
from moontune.model.weights import load_weights


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """A loaded base. Its parameters are frozen; adapters train beside them.

    digest: `sha256:<64 hex>` of config, weights and tokenizer. device: where the parameters are. path: its folder.
    """

    name: str
    config: MoondreamConfig
    module: Moondream
    tokenizer: Tokenizer
    digest: str
    device: str
    path: Path


def load_base(name_or_path: str, device: str | None = None, dtype: torch.dtype | None = None) -> BaseModel:
    """Load a base by its name in the package or by its folder.

    device: None chooses (see `moontune.model.device`). dtype: what the body computes in, whatever is stored; None is
    fp32 on the CPU and bf16 elsewhere. Raises ModelNotFound, InvalidField (config, weights or tokenizer do not fit,
    everything listed) or CheckpointCorrupt.
    """
    folder = find_base(name_or_path)
    where = choose_device(device)
    config = read_config(folder, lambda: stored_shapes(folder))
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE, config.text.vocab_size, config.tokenizer.vocabulary)
    with torch.device("meta"):
        module = Moondream(config).cast_body(dtype or default_dtype(where))
    load_weights(module, folder, where, {name: parameter.dtype for name, parameter in module.named_parameters()})
    _prepare(module, where)
    return BaseModel(config.name, config, module, tokenizer, base_digest(folder), where, folder)


def base_digest(folder: Path) -> str:
    """sha256 over the sorted (file name, sha256 of the file) pairs of config, tokenizer and weights."""
    digest = hashlib.sha256()
    for path in sorted((folder / CONFIG_FILE, folder / TOKENIZER_FILE, *weight_files(folder)), key=lambda p: p.name):
        with path.open("rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def share_base(base: BaseModel) -> BaseModel:
    """The same base as a second module tree over the same parameters, without any adapter of the first.

    An engine and a learner in one process each take one: adapters hang on modules, so neither sees the other's.
    """
    with torch.device("meta"):
        module = Moondream(base.config)
    own = {_plain_name(name): parameter for name, parameter in base.module.named_parameters()}
    for name, _ in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, own[name])
    _prepare(module, base.device)
    return BaseModel(base.name, base.config, module, base.tokenizer, base.digest, base.device, base.path)


def _prepare(module: Moondream, device: str) -> None:
    """Ready to answer; where a setting asks for it, with the vision tower's blocks compiled, for any count of crops."""
    module.eval()
    backend = compile_backend(device, wanted=ModelSettings().compile)
    if backend is not None:
        for block in module.vision.blocks:
            block.compile(backend=backend, dynamic=True)


def _plain_name(name: str) -> str:
    """A parameter's name without the layers that adapters put around it."""
    return re.sub(r"\.base_layer\b", "", name)
