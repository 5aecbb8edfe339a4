"""The PEFT directory of an adapter: adapter_model.safetensors and adapter_config.json, readable by peft itself.

`base_model.model.<layer>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r] in a plain layer. Stacked experts are
laid out as peft does for a stacked parameter: [E r, in] with rows (expert, rank), [out, r E] with columns (rank,
expert), where r is one expert's rank. An adapter of kind lora+region holds the region head's tensors as well.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from moontune.checkpoints.digest import ADAPTER_CONFIG_FILE, ADAPTER_MODEL_FILE
from moontune.errors import CheckpointCorrupt, InvalidField
from moontune.model.adapter_tensors import (
    NOT_FINITE,
    AdapterTensors,
    LoraPair,
    Problem,
    check_settings,
    finite,
    refuse,
)
from moontune.model.config import MoondreamConfig
from moontune.model.lora_layers import (
    REGION,
    adaptable_layers,
    one_expression,
    region_shapes,
    target_layers,
    target_of,
    wiring_of,
)
from moontune.values.finetune import FinetuneKind, LoraSettings, LoraTarget

PREFIX = "base_model.model."
_OTHER_ARITHMETIC = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "layer_replication", "use_bdlora")
"""Settings of peft that change what the tensors mean: refused, never misread."""


def read_adapter(folder: Path, config: MoondreamConfig) -> AdapterTensors:
    """The adapter of a PEFT directory, in fp32 on the CPU.

    Raises CheckpointCorrupt for files that are damaged, InvalidField with everything in them that does not fit the
    architecture.
    """
    settings = _read_settings(folder)
    try:
        stored = safetensors_torch.load_file(folder / ADAPTER_MODEL_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{folder / ADAPTER_MODEL_FILE} is not a whole safetensors file: {error}") from error
    state = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    lora = _lora_settings(settings, state, config)
    check_settings(lora, config)
    _check_patterns(settings, lora, config)
    return from_state(state, lora, config)


def write_adapter(adapter: AdapterTensors, folder: Path, config: MoondreamConfig, base_name: str = "") -> None:
    """Write the directory's two files; `folder` is made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {PREFIX + name: tensor.contiguous() for name, tensor in to_state(adapter).items()}
    safetensors_torch.save_file(state, folder / ADAPTER_MODEL_FILE, metadata={"format": "pt"})
    saved = _file_config(adapter.lora, adapter.kind, config)
    saved.base_model_name_or_path = base_name or config.name
    saved.save_pretrained(str(folder))


def to_state(adapter: AdapterTensors) -> dict[str, Tensor]:
    """Tensors by name, without peft's prefix."""
    state = dict(adapter.full)
    for layer, pair in adapter.layers.items():
        stacked = pair.a.ndim == 3
        state[f"{layer}.lora_A.weight"] = pair.a.flatten(0, 1) if stacked else pair.a
        state[f"{layer}.lora_B.weight"] = pair.b.permute(1, 2, 0).flatten(1) if stacked else pair.b
    return state


def state_shapes(lora: LoraSettings, kind: FinetuneKind, config: MoondreamConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that the directory of such an adapter holds, without peft's prefix."""
    shapes = dict(region_shapes(config)) if kind is FinetuneKind.LORA_REGION else {}
    for layer, shape in target_layers(config, lora).items():
        rows = shape.rank(lora.rank) * max(shape.experts, 1)
        shapes[f"{layer}.lora_A.weight"] = (rows, shape.in_features)
        shapes[f"{layer}.lora_B.weight"] = (shape.out_features, rows)
    return shapes


def from_state(state: Mapping[str, Tensor], lora: LoraSettings, config: MoondreamConfig) -> AdapterTensors:
    """The adapter of these tensors, in fp32; InvalidField lists all that are missing, unknown, misshapen or odd."""
    full = {name: tensor.float() for name, tensor in state.items() if ".lora_" not in name}
    kind = FinetuneKind.LORA_REGION if full else FinetuneKind.LORA
    wanted = state_shapes(lora, kind, config)
    problems: list[Problem] = [(name, "is missing") for name in wanted if name not in state]
    problems += [(name, "is not a tensor of this adapter") for name in state if name not in wanted]
    problems += [
        (name, f"has shape {list(state[name].shape)}, allowed: {list(shape)}")
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems += [(name, NOT_FINITE) for name, tensor in state.items() if not finite(tensor)]
    refuse(problems, f"the adapter does not fit base {config.name!r}")
    layers = {
        layer: _pair(state[f"{layer}.lora_A.weight"].float(), state[f"{layer}.lora_B.weight"].float(), shape.experts)
        for layer, shape in target_layers(config, lora).items()
    }
    return AdapterTensors(lora, layers, full)


def _pair(a: Tensor, b: Tensor, experts: int) -> LoraPair:
    if not experts:
        return LoraPair(a, b)
    return LoraPair(a.view(experts, -1, a.shape[-1]), b.view(b.shape[0], -1, experts).permute(2, 0, 1).contiguous())


def _file_config(lora: LoraSettings, kind: FinetuneKind, config: MoondreamConfig) -> LoraConfig:
    """What peft needs to read the directory into a model of ours: experts are parameters to it, not layers."""
    layers = target_layers(config, lora)
    experts = [name for name, shape in layers.items() if shape.experts]
    return LoraConfig(
        r=lora.rank,
        lora_alpha=cast("int", _plain(lora.scale * lora.rank)),
        target_modules=one_expression(name for name in layers if name not in experts) or None,
        target_parameters=[f"{name}.weight" for name in experts] or None,
        rank_pattern={f"{name}.weight": layers[name].rank(lora.rank) for name in experts},
        alpha_pattern={
            f"{name}.weight": cast("int", _plain(lora.scale * layers[name].rank(lora.rank))) for name in experts
        },
        modules_to_save=[REGION] if kind is FinetuneKind.LORA_REGION else None,
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
    )


def _read_settings(folder: Path) -> dict[str, object]:
    try:
        config = cast("object", json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{folder} is not a whole PEFT directory: {error}") from error
    settings = cast("dict[str, object]", config if isinstance(config, dict) else {})
    kind, alpha = settings.get("peft_type"), settings.get("lora_alpha")
    if kind != "LORA" or not isinstance(alpha, int | float):
        raise InvalidField.of("adapter.config", {"peft_type": kind, "lora_alpha": alpha}, "a LORA with a lora_alpha")
    if foreign := [key for key in _OTHER_ARITHMETIC if settings.get(key)]:
        allowed = "a plain LORA: one rank, scaled by lora_alpha / r"
        raise InvalidField.of("adapter.config", {key: settings[key] for key in foreign}, allowed)
    return settings


def _lora_settings(settings: Mapping[str, object], names: Iterable[str], config: MoondreamConfig) -> LoraSettings:
    """Rank and alpha as the config file says, targets and wiring by the names of the tensors."""
    rank = settings.get("r")
    if not isinstance(rank, int):
        raise InvalidField.of("adapter.config.r", rank, "a whole number")
    layers = {name.rpartition(".lora_")[0] for name in names} & set(adaptable_layers(config))
    targets = tuple(target for target in LoraTarget if any(target_of(layer) is target for layer in layers))
    return LoraSettings(rank, float(cast("float", settings["lora_alpha"])), targets, wiring=wiring_of(layers))


def _check_patterns(settings: Mapping[str, object], lora: LoraSettings, config: MoondreamConfig) -> None:
    """Refuse ranks and scales of single layers other than the experts' share of the rank."""
    ours = _file_config(lora, FinetuneKind.LORA, config)
    wanted: dict[str, object] = {"rank_pattern": ours.rank_pattern, "alpha_pattern": ours.alpha_pattern}
    if foreign := {key: settings[key] for key in wanted if (settings.get(key) or {}) != wanted[key]}:
        allowed = "a plain LORA: one rank, scaled by lora_alpha / r, an expert's rank being its share"
        raise InvalidField.of("adapter.config", foreign, allowed)


def _plain(value: float) -> float:
    """A whole number as int: so that the file says 16, not 16.0, as peft's own do."""
    return int(value) if value == int(value) else value
