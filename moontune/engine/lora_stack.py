"""Adapters of one form on the device: per layer all A and all B in one block of memory each, one slot per adapter."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.engine.host_adapters import HostAdapter


@dataclass(frozen=True, slots=True)
class StackForm:
    """What adapters must have in common to share a stack.

    rank: a power of two that holds theirs; expert_rank: of one expert's delta, 0 where none is adapted. layers: in
    order. own_region: whether they bring a region head of their own.
    """

    rank: int
    expert_rank: int
    layers: tuple[str, ...]
    own_region: bool

    @property
    def adapts_region(self) -> bool:
        """Whether it acts on the region head."""
        return self.own_region or any(name.startswith("region.") for name in self.layers)

    def rank_of(self, a: Tensor) -> int:
        """The rank at which a layer's A, [r, in] or experts' [E, r, in], is held."""
        return self.expert_rank if a.ndim == 3 else self.rank


@dataclass(slots=True, eq=False)
class StackedLayer:
    """a_SIR: [slots, in, rank]. b_SRO: [slots, rank, out], scaled. Experts': [slots, E, ...] both.

    In the dtype that the layer computes in.
    """

    a_SIR: Tensor
    b_SRO: Tensor


class AdapterStack:
    """Slots are numbered from 0; a free one holds zeros or an adapter that has left.

    full: tensors that stand in for the base's, by parameter name, each [slots, ...].
    """

    def __init__(self, form: StackForm, example: HostAdapter, dtypes: Mapping[str, torch.dtype], device: torch.device):
        """`example` has the form; `dtypes` says what each layer computes in."""
        self.form = form
        self.slot_bytes = slot_bytes(form, example, dtypes)
        self.layers = {
            name: StackedLayer(
                _no_slots((*pair.a.shape[:-2], pair.a.shape[-1], form.rank_of(pair.a)), dtypes[name], device),
                _no_slots((*pair.b.shape[:-2], form.rank_of(pair.a), pair.b.shape[-2]), dtypes[name], device),
            )
            for name, pair in example.layers.items()
        }
        self.full = {name: _no_slots(tuple(own.shape), own.dtype, device) for name, own in example.full.items()}
        self.slots = 0

    def write(self, slot: int, adapter: HostAdapter) -> None:
        """Put an adapter into a slot."""
        for name, layer in self.layers.items():
            pair = adapter.layers[name]
            rank = pair.a.shape[-2]
            layer.a_SIR[slot].zero_()[..., :rank] = pair.a.mT.to(layer.a_SIR.device, layer.a_SIR.dtype)
            scaled = (adapter.scale * pair.b).mT
            layer.b_SRO[slot].zero_()[..., :rank, :] = scaled.to(layer.b_SRO.device, layer.b_SRO.dtype)
        for name, stack in self.full.items():
            stack[slot] = adapter.full[name].to(stack.device)

    def rearrange(self, kept: list[int], slots: int) -> None:
        """Have so many slots; those kept come first, in the order given."""
        for layer in self.layers.values():
            layer.a_SIR = _rearranged(layer.a_SIR, kept, slots)
            layer.b_SRO = _rearranged(layer.b_SRO, kept, slots)
        self.full = {name: _rearranged(stack, kept, slots) for name, stack in self.full.items()}
        self.slots = slots


def form_of(adapter: HostAdapter) -> StackForm:
    """The form under which an adapter is stacked."""
    expert_rank = max((pair.a.shape[1] for pair in adapter.layers.values() if pair.a.ndim == 3), default=0)
    layers = tuple(sorted(adapter.layers))
    return StackForm(_power_of_two(adapter.rank), _power_of_two(expert_rank), layers, bool(adapter.full))


def slot_bytes(form: StackForm, adapter: HostAdapter, dtypes: Mapping[str, torch.dtype]) -> int:
    """What an adapter of this form takes on the device."""
    deltas = sum(
        math.prod(pair.a.shape[:-2])
        * form.rank_of(pair.a)
        * (pair.a.shape[-1] + pair.b.shape[-2])
        * dtypes[name].itemsize
        for name, pair in adapter.layers.items()
    )
    return deltas + sum(own.nbytes for own in adapter.full.values())


def _power_of_two(rank: int) -> int:
    """The least that holds the rank; 0 for 0."""
    return 1 << (rank - 1).bit_length() if rank else 0


def _no_slots(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(0, *shape, dtype=dtype, device=device)


def _rearranged(stack: Tensor, kept: list[int], slots: int) -> Tensor:
    new = torch.zeros(slots, *stack.shape[1:], dtype=stack.dtype, device=stack.device)
    if kept:
        new[: len(kept)] = stack[torch.tensor(kept, device=stack.device)]
    return new
