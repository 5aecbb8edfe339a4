"""Adapters of one form on the device: per layer all A and all B in one block of memory each, one slot per adapter."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.engine.host_adapters import HostAdapter


@dataclass(frozen=True, slots=True)
class StackForm:
    """What adapters must have in common to share a stack. rank: a power of two that holds theirs. layers: in order."""

    rank: int
    layers: tuple[str, ...]

    @property
    def adapts_region(self) -> bool:
        """Whether any of its layers is of the region head."""
        return self.layers[0].startswith("region.")  # in order: region before text and vision


@dataclass(slots=True, eq=False)
class StackedLayer:
    """a_SIR: [slots, in, rank]. b_SRO: [slots, rank, out], scaled. Both in the dtype that the layer computes in."""

    a_SIR: Tensor
    b_SRO: Tensor


class AdapterStack:
    """Slots are numbered from 0; a free one holds zeros or an adapter that has left."""

    def __init__(self, form: StackForm, example: HostAdapter, dtypes: Mapping[str, torch.dtype], device: torch.device):
        """`example` has the form; `dtypes` says what each layer computes in."""
        self.form = form
        self.layers = {
            name: StackedLayer(
                torch.zeros(0, pair.a.shape[1], form.rank, dtype=dtypes[name], device=device),
                torch.zeros(0, form.rank, pair.b.shape[0], dtype=dtypes[name], device=device),
            )
            for name, pair in example.layers.items()
        }
        self.slots = 0

    @property
    def slot_bytes(self) -> int:
        """Of one adapter."""
        return slot_bytes(self.form, self.layers)

    def write(self, slot: int, adapter: HostAdapter) -> None:
        """Put an adapter into a slot."""
        for name, layer in self.layers.items():
            pair = adapter.layers[name]
            rank = pair.a.shape[0]
            layer.a_SIR[slot].zero_()[:, :rank] = pair.a.T.to(layer.a_SIR.device, layer.a_SIR.dtype)
            scaled = (adapter.scale * pair.b).T
            layer.b_SRO[slot].zero_()[:rank] = scaled.to(layer.b_SRO.device, layer.b_SRO.dtype)

    def rearrange(self, kept: list[int], slots: int) -> None:
        """Have so many slots; those kept come first, in the order given."""
        for layer in self.layers.values():
            layer.a_SIR = _rearranged(layer.a_SIR, kept, slots)
            layer.b_SRO = _rearranged(layer.b_SRO, kept, slots)
        self.slots = slots


def form_of(adapter: HostAdapter) -> StackForm:
    """The form under which an adapter is stacked."""
    return StackForm(1 << (adapter.rank - 1).bit_length(), tuple(sorted(adapter.layers)))


def _rearranged(stack: Tensor, kept: list[int], slots: int) -> Tensor:
    new = torch.zeros(slots, *stack.shape[1:], dtype=stack.dtype, device=stack.device)
    if kept:
        new[: len(kept)] = stack[torch.tensor(kept, device=stack.device)]
    return new


def slot_bytes(form: StackForm, layers: Mapping[str, StackedLayer]) -> int:
    """Bytes of one slot in all layers."""
    del form
    return sum(
        (layer.a_SIR.shape[1] * layer.a_SIR.shape[2] + layer.b_SRO.shape[1] * layer.b_SRO.shape[2])
        * layer.a_SIR.element_size()
        for layer in layers.values()
    )
