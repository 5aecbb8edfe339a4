"""Layers of the base inside an engine: each computes the base's result, and then what each row's adapter makes of it.

Which adapters act on which rows of the coming pass is in one list that all of them share (`DeviceAdapters.act`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moontune.engine.blocks import Blocks
from moontune.engine.lora_stack import AdapterStack, StackedLayer
from moontune.model.layers import Shortcut
from moontune.model.moe import ExpertLinear
from moontune.model.moondream import Moondream
from moontune.model.region import Region

MOST_GATHERED = 1 << 24
"""Numbers of experts' A, or of their B, that are copied side by side at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Acting:
    """Adapters of one stack in a pass. blocks: their rows. slot_B: the slot of every row of the pass, -1 for none."""

    stack: AdapterStack
    blocks: Blocks
    slot_B: Tensor


class AdaptedLinear(nn.Module):
    """A linear layer (a bare shortcut gives nothing), and on the rows that have one, their adapter's delta."""

    def __init__(self, name: str, base_layer: nn.Linear | Shortcut, acting: Sequence[Acting]) -> None:
        """`name` is the layer's own in the tree."""
        super().__init__()
        self.name, self.base_layer = name, base_layer
        self._acting = acting

    def forward(self, x: Tensor) -> Tensor | None:
        """[rows, ..., in] to [rows, ..., out]."""
        y: Tensor | None = self.base_layer(x)
        for each in self._acting:
            layer, blocks = each.stack.layers.get(self.name), each.blocks
            if layer is None:
                continue
            delta = blocks.delta(x, layer.a_SIR, layer.b_SRO)
            if y is None:
                y = torch.zeros(*x.shape[:-1], delta.shape[-1], dtype=x.dtype, device=x.device)
            if blocks.rows is None:
                y += delta
            else:
                y.index_add_(0, blocks.rows, delta.to(y.dtype))
        return y


class AdaptedExperts(nn.Module):
    """Experts' linear layers, and for each token the delta that its row's adapter has for its expert."""

    def __init__(self, name: str, base_layer: ExpertLinear, acting: Sequence[Acting]) -> None:
        """`name` is the layer's own in the tree."""
        super().__init__()
        self.name, self.base_layer = name, base_layer
        self._acting = acting

    def forward(self, x_MI: Tensor, ends_X: Tensor, rows_M: Tensor) -> Tensor:
        """[M, in] sorted by expert to [M, out]; expert i has those before ends_X[i], rows_M says whose each is."""
        y_MO: Tensor = self.base_layer(x_MI, ends_X, rows_M)
        for each in self._acting:
            layer = each.stack.layers.get(self.name)
            if layer is not None:
                place_M = torch.arange(len(x_MI), device=x_MI.device, dtype=ends_X.dtype)
                expert_M = torch.searchsorted(ends_X, place_M, right=True)
                y_MO += _expert_delta(x_MI, layer, each.slot_B[rows_M], expert_M).to(y_MO.dtype)
        return y_MO


class AdaptedRegion(nn.Module):
    """The base's region head, and for rows whose adapter brings its own (kind lora+region) that one instead.

    The heads of all adapters in a pass are computed as one, batched over their slots.
    """

    def __init__(self, base_layer: Region, text_dim: int, acting: Sequence[Acting]) -> None:
        """`text_dim` is the width that the head reads and writes."""
        super().__init__()
        self.config, self.base_layer = base_layer.config, base_layer
        self._acting = acting
        with torch.device("meta"):
            self._forms = {name: _RegionCall(Region(base_layer.config, text_dim), name) for name in _CALLS}

    def embed_coords(self, values: Tensor) -> Tensor:
        """As `Region.embed_coords`, rows first."""
        return self._each("embed_coords", values)

    def embed_sizes(self, sizes: Tensor) -> Tensor:
        """As `Region.embed_sizes`, rows first."""
        return self._each("embed_sizes", sizes)

    def coord_logits(self, hidden: Tensor) -> Tensor:
        """As `Region.coord_logits`, rows first."""
        return self._each("coord_logits", hidden)

    def size_logits(self, hidden: Tensor) -> Tensor:
        """As `Region.size_logits`, rows first."""
        return self._each("size_logits", hidden)

    def embed_coord_bins(self, bins: Tensor) -> Tensor:
        """As `Region.embed_coord_bins`, rows first."""
        return self._each("embed_coord_bins", bins)

    def embed_size_bins(self, bins: Tensor) -> Tensor:
        """As `Region.embed_size_bins`, rows first."""
        return self._each("embed_size_bins", bins)

    def _each(self, method: str, x: Tensor) -> Tensor:
        y: Tensor = getattr(self.base_layer, method)(x)
        for each in self._acting:
            if not each.stack.full:
                continue
            blocks, form = each.blocks, self._forms[method]

            def own(tensors: dict[str, Tensor], x: Tensor, form: nn.Module = form) -> Tensor:
                return torch.func.functional_call(form, tensors, (x,))

            tensors = {name: blocks.of(stack) for name, stack in each.stack.full.items()}
            mine = blocks.ungathered(torch.vmap(own)(tensors, blocks.gathered(x)))
            y = mine if blocks.rows is None else y.index_copy(0, blocks.rows, mine.to(y.dtype))
        return y


_CALLS = ("embed_coords", "embed_sizes", "coord_logits", "size_logits", "embed_coord_bins", "embed_size_bins")


class _RegionCall(nn.Module):
    """One method of a region head as a module's forward, its parameters named as in an adapter's files."""

    def __init__(self, region: Region, method: str) -> None:
        super().__init__()
        self.region, self._method = region, method

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.region, self._method)(x)


def wrap(module: Moondream, name: str, acting: Sequence[Acting]) -> torch.dtype:
    """Put an adapted layer in the place of a layer of this name; the dtype that it computes in."""
    layer = module.get_submodule(name)
    owner, _, leaf = name.rpartition(".")
    if isinstance(layer, ExpertLinear):
        setattr(module.get_submodule(owner), leaf, AdaptedExperts(name, layer, acting))
        return layer.weight.dtype
    assert isinstance(layer, nn.Linear | Shortcut), f"{name} is a {type(layer).__name__}, which no adapter acts on"
    setattr(module.get_submodule(owner), leaf, AdaptedLinear(name, layer, acting))
    return layer.weight.dtype if isinstance(layer, nn.Linear) else module.dtype


def _expert_delta(x_MI: Tensor, layer: StackedLayer, slot_M: Tensor, expert_M: Tensor) -> Tensor:
    """B A x of each token's slot and expert, zero where the slot is -1: [M, out]. A token's does not feel the others.

    layer: A [slots, E, in, r] and B [slots, E, r, out]; a part of the tokens at a time, as each gets a copy of its own.
    """
    each = max(layer.a_SIR[0, 0].numel(), layer.b_SRO[0, 0].numel())
    most = max(1, MOST_GATHERED // each)
    parts: list[Tensor] = []
    for start in range(0, len(x_MI), most):
        part = slice(start, start + most)
        mine = (slot_M[part].clamp(min=0), expert_M[part])
        x_P1I = x_MI[part].unsqueeze(1).to(layer.a_SIR.dtype)
        delta_PO = torch.bmm(torch.bmm(x_P1I, layer.a_SIR[mine]), layer.b_SRO[mine]).squeeze(1)
        parts.append(delta_PO.masked_fill((slot_M[part] < 0).unsqueeze(1), 0.0))
    return torch.cat(parts)
