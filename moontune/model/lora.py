"""LoRA adapters on a base, through peft: which layers, how they start, how they are stored, which one acts.

An adapter's files are a PEFT directory (adapter_config.json, adapter_model.safetensors), readable by peft itself. The
base's own parameters are never trained and never changed.
"""

import json
import math
import re
from collections.abc import Generator as Yields
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from moontune.errors import CheckpointCorrupt, FieldViolation, InvalidField
from moontune.model.moondream import Moondream

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."
_OTHER_ARITHMETIC = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out")
"""Settings of peft that change what the tensors mean: refused, never misread."""


class LoraTarget(StrEnum):
    """A named set of layers that an adapter may act on."""

    TEXT_ATTENTION = "text_attention"
    TEXT_MLP = "text_mlp"
    REGION = "region"
    VISION = "vision"


PATTERNS: Mapping[LoraTarget, str] = {
    LoraTarget.TEXT_ATTENTION: r"text\.blocks\.\d+\.attn\.(qkv|proj)",
    LoraTarget.TEXT_MLP: r"text\.blocks\.\d+\.mlp\.(fc1|fc2)",
    LoraTarget.REGION: r"region\.(coord_encoder|size_encoder|(coord_decoder|size_decoder)\.(fc1|fc2))",
    LoraTarget.VISION: r"vision\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))|proj_mlp\.(fc1|fc2))",
}
"""Full module names of each target."""

TEXT_SIDE = (LoraTarget.TEXT_ATTENTION, LoraTarget.TEXT_MLP)
"""The default: noise of sampled coordinates must not go straight into the region head."""


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """An adapter's form. alpha: None means twice the rank; the delta is scaled by alpha / rank."""

    rank: int = 8
    alpha: float | None = None
    targets: tuple[LoraTarget, ...] = TEXT_SIDE

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank

    @property
    def pattern(self) -> str:
        """One expression that matches every target layer's name, and it alone."""
        return "|".join(f"(?:{PATTERNS[target]})" for target in LoraTarget if target in self.targets)

    def validate(self, max_rank: int, field: str = "lora") -> None:
        """Raise InvalidField, naming the field, for a rank, alpha or target set that cannot be."""
        if not 1 <= self.rank <= max_rank:
            raise InvalidField.of(f"{field}.rank", self.rank, f"1 to {max_rank}")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InvalidField.of(f"{field}.alpha", self.alpha, "a finite number above 0, or unset for twice the rank")
        if not self.targets:
            raise InvalidField.of(f"{field}.targets", [], f"one or more of {', '.join(LoraTarget)}")


class Adapters:
    """The adapters on one module tree; at most one acts at a time. Not shared between threads."""

    def __init__(self, module: Moondream) -> None:
        """Takes a tree of its own (see `share_base`)."""
        self._module = module
        self._specs: dict[str, LoraSpec] = {}
        self._active: str | None = None
        self._wrapped: list[tuple[str, Any]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Attached adapters, in order of attachment."""
        return tuple(self._specs)

    @property
    def active(self) -> str | None:
        """Which adapter acts; None is the bare base."""
        return self._active

    def spec(self, name: str) -> LoraSpec:
        """The form of an attached adapter."""
        return self._specs[name]

    def attach(self, name: str, spec: LoraSpec, seed: int = 0) -> None:
        """Add a fresh adapter, not acting yet: A drawn from `seed`, B zero, so it changes nothing until trained."""
        if name in self._specs:
            raise ValueError(f"adapter {name!r} is attached already")
        spec.validate(self._module.config.limits.max_lora_rank)
        inject_adapter_in_model(_peft_config(spec), self._module, adapter_name=name)
        # peft leaves its own book-keeping on the tree and would warn of it at the next adapter; ours is _specs.
        delattr(self._module, "peft_config")
        modules = cast("Iterable[tuple[str, Any]]", self._module.named_modules())
        self._wrapped = [(path, layer) for path, layer in modules if isinstance(layer, LoraLayer)]
        self._specs[name] = spec
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in sorted(self.parameters(name).items()):
                # peft may have used the base's dtype; adapters are kept and trained in fp32.
                parameter.data = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
                if ".lora_A." in key:
                    bound = 1 / math.sqrt(parameter.shape[1])
                    drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
                    parameter.copy_(drawn)
        self._apply()

    def remove(self, name: str) -> None:
        """Take an adapter off and free its memory; the bare base acts if it did."""
        if self._active == name:
            self._active = None
        del self._specs[name]
        self._apply()
        for _, layer in self._named_layers(name):
            layer.delete_adapter(name)

    def activate(self, name: str | None) -> None:
        """Let this adapter act, alone; None is the bare base."""
        if name is not None and name not in self._specs:
            raise KeyError(f"adapter {name!r} is not attached; there are {', '.join(self._specs) or 'none'}")
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
        found: dict[str, nn.Parameter] = {}
        for path, layer in self._named_layers(name):
            for part in ("lora_A", "lora_B"):
                linear = cast("nn.ModuleDict", getattr(layer, part))[name]
                found[f"{path}.{part}.weight"] = cast("nn.Parameter", linear.weight)
        return found

    def save(self, name: str, folder: Path, base_name: str = "") -> None:
        """Write the PEFT directory (two files)."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {_PEFT_PREFIX + key: value.detach().cpu().contiguous() for key, value in self.parameters(name).items()}
        safetensors_torch.save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = _peft_config(self._specs[name])
        config.base_model_name_or_path = base_name or self._module.config.name
        config.inference_mode = True
        config.save_pretrained(str(folder))

    def load(self, name: str, folder: Path) -> LoraSpec:
        """Attach the adapter of a PEFT directory; returns its form.

        Raises InvalidField with every tensor that is missing, unknown, misshapen or not finite, or CheckpointCorrupt;
        nothing is attached then.
        """
        state, alpha = read_peft_folder(folder)
        spec = _spec_of(state, alpha, self._module, folder)
        self.attach(name, spec)
        try:
            self.load_state(name, state)
        except InvalidField:
            self.remove(name)
            raise
        return spec

    def load_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Copy tensors, by the names of `parameters`, into an attached adapter; all or nothing."""
        own = self.parameters(name)
        problems = [(key, "is missing") for key in own if key not in state]
        problems += [(key, "is not a tensor of this adapter") for key in state if key not in own]
        problems += [
            (key, f"has shape {list(state[key].shape)}, allowed: {list(parameter.shape)}")
            for key, parameter in own.items()
            if key in state and state[key].shape != parameter.shape
        ]
        problems += [(key, "has values that are not finite") for key, value in state.items() if not _finite(value)]
        if problems:
            raise _refusal(name, problems)
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(state[key])

    def _apply(self) -> None:
        for _, layer in self._named_layers(None):
            mine = self._active is not None and self._active in layer.lora_A
            layer.set_adapter([self._active] if mine and self._active is not None else [])
            layer.enable_adapters(mine)
        # Whatever acts, the base never learns; an adapter at rest keeps its gradients off as well.
        for name in self._specs:
            for parameter in self.parameters(name).values():
                parameter.requires_grad_(name == self._active)

    def _named_layers(self, name: str | None) -> list[tuple[str, Any]]:
        """Layers that any adapter, or this one, acts on. peft's layers are untyped."""
        return [(path, layer) for path, layer in self._wrapped if name is None or name in layer.lora_A]


def read_peft_folder(folder: Path) -> tuple[dict[str, Tensor], float]:
    """Tensors by name without peft's prefix, and alpha; raises CheckpointCorrupt or InvalidField."""
    try:
        config = cast("object", json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        state = safetensors_torch.load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{folder} is not a whole PEFT directory: {error}") from error
    settings = cast("dict[str, object]", config if isinstance(config, dict) else {})
    kind, alpha = settings.get("peft_type"), settings.get("lora_alpha")
    if kind != "LORA" or not isinstance(alpha, int | float):
        raise InvalidField.of("adapter.config", {"peft_type": kind, "lora_alpha": alpha}, "a LORA with a lora_alpha")
    if foreign := [key for key in _OTHER_ARITHMETIC if settings.get(key)]:
        allowed = "a plain LORA: one rank, scaled by lora_alpha / r"
        raise InvalidField.of("adapter.config", {key: settings[key] for key in foreign}, allowed)
    return {key.removeprefix(_PEFT_PREFIX): value for key, value in state.items()}, float(alpha)


def _spec_of(state: Mapping[str, Tensor], alpha: float, module: Moondream, folder: Path) -> LoraSpec:
    """The form that these tensors have: targets by their names, rank by their shapes."""
    layers = {key.rpartition(".lora_")[0] for key in state}
    targets = tuple(target for target in LoraTarget if any(re.fullmatch(PATTERNS[target], layer) for layer in layers))
    ranks = {value.shape[0] for key, value in state.items() if ".lora_A." in key and value.ndim == 2}
    if len(ranks) != 1 or not targets:
        given = f"ranks {sorted(ranks)}, targets {list(targets)} in {folder}"
        raise InvalidField.of("adapter", given, "one rank, and layers of this architecture")
    spec = LoraSpec(ranks.pop(), alpha, targets)
    spec.validate(module.config.limits.max_lora_rank, "adapter")
    return spec


def _peft_config(spec: LoraSpec) -> LoraConfig:
    alpha = spec.scale * spec.rank
    return LoraConfig(
        r=spec.rank,
        lora_alpha=cast("int", int(alpha) if alpha == int(alpha) else alpha),
        target_modules=spec.pattern,
        lora_dropout=0.0,
        bias="none",
    )


def _refusal(name: str, problems: list[tuple[str, str]]) -> InvalidField:
    violations = [FieldViolation(f"adapter.{key}", f"{key} {what}") for key, what in problems]
    listed = "; ".join(violation.description for violation in violations)
    return InvalidField(f"adapter {name!r} does not fit this base: {listed}", violations=violations)


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
