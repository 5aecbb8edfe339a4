"""LoRA adapters on a base, through peft: how they start, which one acts, and their files.

The base's own parameters are never trained and never changed. An adapter of kind lora+region brings its own copy of
the region head's tensors, one of kind full its own copy of every tensor that it trains; they stand in for the base's
while the adapter acts.
"""

import math
from collections.abc import Generator as Yields
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from moontune.errors import CheckpointCorrupt
from moontune.model.adapter_tensors import AdapterTensors, check_settings, started
from moontune.model.full_weights import full_targets, is_full, load_full, trained_whole, write_full
from moontune.model.lora_layers import REGION, one_expression, target_layers
from moontune.model.lora_modules import CUSTOM_MODULES
from moontune.model.moondream import Moondream
from moontune.model.peft_folder import from_state, read_adapter, to_state, write_adapter
from moontune.values.finetune import FinetuneKind, LoraSettings


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """Where a parameter of the base hangs, and the base's own tensor."""

    owner: nn.Module
    leaf: str
    base: nn.Parameter


class Adapters:
    """The adapters on one module tree; at most one acts at a time. Not shared between threads."""

    def __init__(self, module: Moondream) -> None:
        """Takes a tree of its own (see `share_base`)."""
        self._module = module
        self._settings: dict[str, LoraSettings] = {}
        self._active: str | None = None
        self._wrapped: list[tuple[str, Any]] = []
        self._slots = dict(_slots(module))
        self._full: dict[str, dict[str, nn.Parameter]] = {}
        self._kinds: dict[str, FinetuneKind] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Attached adapters, in order of attachment."""
        return tuple(self._settings)

    @property
    def active(self) -> str | None:
        """Which adapter acts; None is the bare base."""
        return self._active

    def settings(self, name: str) -> LoraSettings:
        """Rank, scale, targets and wiring of an attached adapter."""
        return self._settings[name]

    def kind(self, name: str) -> FinetuneKind:
        """Which tensors of its own an attached adapter has."""
        return self._kinds[name]

    def attach(self, name: str, lora: LoraSettings, kind: FinetuneKind = FinetuneKind.LORA) -> None:
        """Add a fresh adapter, not acting yet: A drawn from `lora.seed`, B zero, so it changes nothing until trained.

        Of kind full it is a copy of the base's tensors in fp32; only whether vision is a target matters of `lora`.

        Raises InvalidField for settings that no adapter of this base can have.
        """
        if name in self._settings:
            raise ValueError(f"adapter {name!r} is attached already")
        if kind is not FinetuneKind.FULL:
            self._inject(name, lora)
        self._settings[name], self._kinds[name] = lora, kind
        self._full[name] = {
            path: nn.Parameter(slot.base.detach().to(torch.promote_types(slot.base.dtype, torch.float32), copy=True))
            for path, slot in self._slots.items()
            if _is_own(path, lora, kind)
        }
        _start(self._deltas(name), lora.seed)
        self._apply()

    def _inject(self, name: str, lora: LoraSettings) -> None:
        check_settings(lora, self._module.config, "lora")
        inject_adapter_in_model(self._peft_config(lora), self._module, adapter_name=name)
        # peft leaves its own book-keeping on the tree and would warn of it at the next adapter; ours is _settings.
        delattr(self._module, "peft_config")
        modules = cast("Iterable[tuple[str, Any]]", self._module.named_modules())
        self._wrapped = [(path, layer) for path, layer in modules if isinstance(layer, LoraLayer)]

    def size(self, lora: LoraSettings, kind: FinetuneKind) -> int:
        """How many numbers an adapter of this form has."""
        own = sum(slot.base.numel() for path, slot in self._slots.items() if _is_own(path, lora, kind))
        if kind is FinetuneKind.FULL:
            return own
        shapes = target_layers(self._module.config, lora).values()
        return own + sum(math.prod(matrix) for shape in shapes for matrix in shape.pair(lora.rank))

    def attach_tensors(self, name: str, adapter: AdapterTensors) -> None:
        """Add an adapter with these weights, not acting yet; InvalidField, listing all, where they do not fit."""
        adapter.check_fits(self._module.config)
        self.attach(name, adapter.lora, adapter.kind)
        stored = to_state(adapter)
        with torch.no_grad():
            for key, parameter in self.parameters(name).items():
                parameter.copy_(stored[key])

    def remove(self, name: str) -> None:
        """Take an adapter off and free its memory; the bare base acts if it did."""
        if self._active == name:
            self._active = None
        del self._settings[name], self._full[name], self._kinds[name]
        self._apply()
        for _, layer in self._named_layers(name):
            layer.delete_adapter(name)

    def activate(self, name: str | None) -> None:
        """Let this adapter act, alone; None is the bare base."""
        if name is not None and name not in self._settings:
            raise KeyError(f"adapter {name!r} is not attached; there are {', '.join(self._settings) or 'none'}")
        if name != self._active:
            self._active = name
            self._apply()

    @contextmanager
    def off(self) -> Yields[None, None, None]:
        """The bare base inside the block (the reference policy), then the same adapter again."""
        before = self._active
        self.activate(None)
        try:
            yield
        finally:
            self.activate(before)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """An adapter's trainable parameters by PEFT's names, without the prefix: `text.blocks.0...lora_A.weight`."""
        return {**self._full[name], **self._deltas(name)}

    def tensors(self, name: str) -> AdapterTensors:
        """A copy of an attached adapter's weights, on the CPU."""
        state = {key: parameter.detach().cpu().clone() for key, parameter in self.parameters(name).items()}
        return from_state(state, self._settings[name], self._module.config)

    def save(self, name: str, folder: Path, base_name: str = "") -> None:
        """Write the two files: a PEFT directory, or whole tensors for kind full."""
        if self._kinds[name] is FinetuneKind.FULL:
            write_full(self._full[name], self._settings[name], folder, base_name or self._module.config.name)
            return
        write_adapter(self.tensors(name), folder, self._module.config, base_name)

    def load(self, name: str, folder: Path) -> LoraSettings:
        """Attach the adapter of a PEFT directory, or a full finetune's tensors; returns its form.

        Raises InvalidField with every tensor that is missing, unknown, misshapen or not finite, or CheckpointCorrupt;
        nothing is attached then.
        """
        if is_full(folder):
            return self._load_full(name, folder)
        adapter = read_adapter(folder, self._module.config)
        self.attach_tensors(name, adapter)
        return adapter.lora

    def _load_full(self, name: str, folder: Path) -> LoraSettings:
        lora = LoraSettings(targets=full_targets(folder))
        self.attach(name, lora, FinetuneKind.FULL)
        try:
            load_full(folder, self._full[name])
        except CheckpointCorrupt:
            self.remove(name)
            raise
        return lora

    def _apply(self) -> None:
        for _, layer in self._named_layers(None):
            mine = self._active is not None and self._active in layer.lora_A
            layer.set_adapter([self._active] if mine and self._active is not None else [])
            layer.enable_adapters(mine)
        own = self._full[self._active] if self._active is not None else {}
        for path, slot in self._slots.items():
            setattr(slot.owner, slot.leaf, own.get(path, slot.base))
        # Whatever acts, the base never learns; an adapter at rest keeps its gradients off as well.
        for name in self._settings:
            for parameter in self.parameters(name).values():
                parameter.requires_grad_(name == self._active)

    def _deltas(self, name: str) -> dict[str, nn.Parameter]:
        found: dict[str, nn.Parameter] = {}
        for path, layer in self._named_layers(name):
            for part in ("lora_A", "lora_B"):
                linear = cast("nn.ModuleDict", getattr(layer, part))[name]
                found[f"{path}.{part}.weight"] = cast("nn.Parameter", linear.weight)
        return found

    def _named_layers(self, name: str | None) -> list[tuple[str, Any]]:
        """Layers that any adapter, or this one, acts on. peft's layers are untyped."""
        return [(path, layer) for path, layer in self._wrapped if name is None or name in layer.lora_A]

    def _peft_config(self, lora: LoraSettings) -> LoraConfig:
        layers = target_layers(self._module.config, lora)
        experts = {name: shape.rank(lora.rank) for name, shape in layers.items() if shape.experts}
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=cast("int", lora.scale * lora.rank),
            target_modules=one_expression(layers),
            rank_pattern=experts,
            alpha_pattern={name: cast("int", lora.scale * rank) for name, rank in experts.items()},
            lora_dropout=0.0,
            bias="none",
        )
        config._register_custom_module(dict(CUSTOM_MODULES))  # pyright: ignore[reportPrivateUsage]
        return config


def _slots(module: nn.Module) -> Iterable[tuple[str, _Slot]]:
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        yield name, _Slot(module.get_submodule(owner), leaf, parameter)


def _is_own(name: str, lora: LoraSettings, kind: FinetuneKind) -> bool:
    """Whether an adapter of this kind has its own copy of this parameter."""
    if kind is FinetuneKind.FULL:
        return trained_whole(name, lora)
    return kind is FinetuneKind.LORA_REGION and name.startswith(f"{REGION}.")


def _start(deltas: Mapping[str, nn.Parameter], seed: int) -> None:
    """A drawn, B zero, in fp32 whatever peft took from the base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(deltas.items()):
            parameter.data = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            if ".lora_A." in key:
                parameter.copy_(started(tuple(parameter.shape), generator))
