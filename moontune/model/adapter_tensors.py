"""An adapter as tensors: what it adds to which layer, checked against an architecture."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moontune.errors import FieldViolation, InvalidField
from moontune.model.config import MoondreamConfig
from moontune.model.lora_layers import LayerShape, adaptable_layers, region_shapes, target_layers, target_of, wiring_of
from moontune.values.finetune import FinetuneKind, LoraSettings, LoraTarget

NOT_FINITE = "has values that are not finite"
Problem = tuple[str, str]
"""A tensor's name and what is wrong with it."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraPair:
    """One layer's delta, scale B A x. a: [r, in], b: [out, r]; in experts [E, r, in] and [E, out, r]."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AdapterTensors:
    """What an adapter is, apart from where it runs.

    layers: the delta of each layer, by module name (`text.blocks.0.attn.qkv`). full: tensors that replace the base's,
    by parameter name; all those of the region head, or none.
    """

    lora: LoraSettings
    layers: Mapping[str, LoraPair]
    full: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def scale(self) -> float:
        """Factor of every delta: alpha / rank."""
        return self.lora.scale

    @property
    def kind(self) -> FinetuneKind:
        """lora+region with tensors of the region head, else lora."""
        return FinetuneKind.LORA_REGION if self.full else FinetuneKind.LORA

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor: `<layer>.A`, `<layer>.B` and the full ones."""
        for layer, pair in self.layers.items():
            yield f"{layer}.A", pair.a
            yield f"{layer}.B", pair.b
        yield from self.full.items()

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.named_tensors())

    def check_fits(self, config: MoondreamConfig) -> None:
        """Raise InvalidField naming every tensor that is missing, unknown, misshapen or not finite."""
        problems = [*_layer_problems(self, config), *_full_problems(self.full, config)]
        problems += [(name, NOT_FINITE) for name, tensor in self.named_tensors() if not finite(tensor)]
        refuse(problems, f"the adapter does not fit base {config.name!r}")


def adapter_of(
    layers: Mapping[str, LoraPair], alpha: float | None, full: Mapping[str, Tensor], config: MoondreamConfig
) -> AdapterTensors:
    """An adapter of these tensors, in fp32: rank by their shapes, targets and wiring by their names.

    alpha: None is scale 1. Raises InvalidField, listing everything that does not fit the architecture.
    """
    known = adaptable_layers(config)
    ranks = _ranks(layers, known, experts=False) or _ranks(layers, known, experts=True)
    if len(ranks) != 1:
        raise InvalidField.of(
            "adapter.rank", sorted(ranks), f"one rank in all layers, which are layers of {config.name}"
        )
    rank = ranks.pop()
    targets = tuple(target for target in LoraTarget if any(target_of(name) is target for name in layers))
    lora = LoraSettings(rank, float(rank) if alpha is None else alpha, targets, wiring=wiring_of(layers))
    check_settings(lora, config)
    adapter = AdapterTensors(
        lora,
        {name: LoraPair(pair.a.float(), pair.b.float()) for name, pair in layers.items()},
        {name: tensor.float() for name, tensor in full.items()},
    )
    adapter.check_fits(config)
    return adapter


def paired(halves: Mapping[str, Tensor]) -> dict[str, LoraPair]:
    """Deltas of tensors named `<layer>.a` and `<layer>.b`; InvalidField lists those without their other half."""
    layers = {name.rpartition(".")[0]: None for name in halves}
    wanted = [f"{layer}.{half}" for layer in layers for half in "ab"]
    refuse([(name, "is missing") for name in wanted if name not in halves], "the adapter's tensors do not pair up")
    if not layers:
        raise InvalidField.of("adapter", "no tensors", "a file with one layer's delta or more")
    return {layer: LoraPair(halves[f"{layer}.a"], halves[f"{layer}.b"]) for layer in layers}


def check_settings(lora: LoraSettings, config: MoondreamConfig, field: str = "adapter") -> None:
    """Raise InvalidField for settings that no adapter of this architecture can have."""
    lora.validate(field)
    if lora.rank > config.limits.max_lora_rank:
        raise InvalidField.of(f"{field}.rank", lora.rank, f"1 to {config.limits.max_lora_rank} on {config.name}")


def refuse(problems: list[Problem], what: str) -> None:
    """Raise InvalidField listing every problem; nothing where there is none."""
    if problems:
        violations = [FieldViolation(f"adapter.{name}", f"{name} {says}") for name, says in problems]
        listed = "; ".join(violation.description for violation in violations)
        raise InvalidField(f"{what}: {listed}", violations=violations)


def started(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Start values of A [..., in]: uniform within 1 / sqrt(in), as peft draws them."""
    bound = 1 / math.sqrt(shape[-1])
    return torch.rand(shape, generator=generator) * (2 * bound) - bound


def finite(tensor: Tensor) -> bool:
    """Whether every value is a number."""
    return bool(torch.isfinite(tensor).all())


def _ranks(layers: Mapping[str, LoraPair], known: Mapping[str, LayerShape], *, experts: bool) -> set[int]:
    """The adapter's ranks that plain layers, or else experts, speak for."""
    return {
        pair.a.shape[-2] * known[name].active
        for name, pair in layers.items()
        if name in known and bool(known[name].experts) is experts and pair.a.ndim > 1
    }


def _layer_problems(adapter: AdapterTensors, config: MoondreamConfig) -> Iterator[Problem]:
    wanted = target_layers(config, adapter.lora)
    yield from ((name, "is missing") for name in wanted if name not in adapter.layers)
    yield from ((name, "is not a layer of this adapter's targets") for name in adapter.layers if name not in wanted)
    for name, shape in wanted.items():
        if name in adapter.layers:
            pair, (a, b) = adapter.layers[name], shape.pair(adapter.lora.rank)
            yield from _shape_problem(f"{name}.A", pair.a, a)
            yield from _shape_problem(f"{name}.B", pair.b, b)


def _full_problems(full: Mapping[str, Tensor], config: MoondreamConfig) -> Iterator[Problem]:
    wanted = region_shapes(config) if full else dict[str, tuple[int, ...]]()
    yield from ((name, "is missing") for name in wanted if name not in full)
    yield from ((name, "is not a tensor of the region head") for name in full if name not in wanted)
    for name, shape in wanted.items():
        if name in full:
            yield from _shape_problem(name, full[name], shape)


def _shape_problem(name: str, tensor: Tensor, wanted: tuple[int, ...]) -> Iterator[Problem]:
    if tuple(tensor.shape) != wanted:
        yield name, f"has shape {list(tensor.shape)}, allowed: {list(wanted)}"
