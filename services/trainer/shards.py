"""A frozen base divided among the ranks (FSDP2), for one that does not fit a device; adapters stay whole on each.

Each rank keeps its part of every text block; a block is gathered for the moment it computes, forward or backward, and
let go of again (Zhao et al. 2023, arXiv 2304.11277). Gathering takes all ranks, and ranks have different work: other
groups, more passes, a score asked of the leader alone. So before each pass the ranks say what they are about to do,
and those with nothing of that kind to compute gather along.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import ParamSpec, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from moontune.errors import InvalidField, MoontuneError, ResourceExhausted
from moontune.model.base_model import BaseModel
from moontune.model.device import choose_device, default_dtype
from moontune.model.moondream import Moondream
from moontune.values.finetune import Finetune, FinetuneKind
from services.trainer.gang import Gang, TorchGang

Parameters = ParamSpec("Parameters")


class Shards(Protocol):
    """What the learner asks of the base's division."""

    divided: bool

    def finish(self, failure: MoontuneError | None = None) -> None:
        """This rank's passes are over; gathers along until every rank's are."""
        ...

    def check(self, finetune: Finetune) -> None:
        """Raise InvalidField for a finetune that cannot be trained so."""
        ...


class Undivided:
    """The base is whole on this rank."""

    divided = False

    def finish(self, failure: MoontuneError | None = None) -> None:
        """Nobody waits."""

    def check(self, finetune: Finetune) -> None:
        """Every kind can be trained."""


class Intent(IntEnum):
    """What a rank is about to do; the highest that any rank names comes first."""

    DONE = 0
    BACKWARD = 1
    FORWARD = 2


class Divided:
    """Keeps ranks in step over the blocks of a text model that `divide` has divided."""

    divided = True

    def __init__(self, module: Moondream, gang: TorchGang) -> None:
        self._gang = gang
        self._blocks = cast("Sequence[FSDPModule]", list(module.text.blocks))
        self._in_backward = False
        module.text.hidden = self._announced(module.text.hidden)

    def finish(self, failure: MoontuneError | None = None) -> None:
        """As in `Shards`. A backward that ran out of memory half-way cannot be gathered along: the gang ends then."""
        if self._in_backward and isinstance(failure, ResourceExhausted):
            self._gang.give_up(str(failure))
        self._in_backward = False
        self._await(Intent.DONE)

    def check(self, finetune: Finetune) -> None:
        """As in `Shards`: a full finetune would be a second base, whole on every rank."""
        if finetune.kind is FinetuneKind.FULL:
            raise InvalidField.of(
                "kind", str(finetune.kind), "lora or lora+region on a trainer that divides its base (shard_base)"
            )

    def _announced(self, hidden: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
            self._in_backward = False
            self._await(Intent.FORWARD)
            try:
                out_BTD = hidden(*args, **kwargs)
            except BaseException as error:
                self._gang.give_up(f"a forward pass ended half-way: {error}")  # the others are inside a block
                raise
            if not out_BTD.requires_grad:
                return out_BTD
            seen_BTD = out_BTD.view_as(out_BTD)  # a hook on the block's own output would come after FSDP's
            seen_BTD.register_hook(self._before_backward)
            return seen_BTD

        return run

    def _before_backward(self, gradient_BTD: Tensor) -> None:
        del gradient_BTD
        self._await(Intent.BACKWARD)
        self._in_backward = True

    def _await(self, mine: Intent) -> None:
        """Until it is this rank's turn to do what it wants; meanwhile it gathers along with the others."""
        while (now := max(self._gang.gather(mine))) is not mine:
            for block in self._blocks if now is Intent.FORWARD else reversed(self._blocks):
                block.unshard()
                block.reshard()


def divide(base: BaseModel, gang: Gang, device: str | None) -> tuple[BaseModel, Divided]:
    """The base on this rank's device with its text blocks divided, the rest of it whole.

    base: a module tree of one's own, in the machine's memory: one block at a time is whole on the device. Raises
    InvalidField where there is one rank only.
    """
    if not isinstance(gang, TorchGang):
        raise InvalidField.of("shard_base", True, "off, or several ranks started by torchrun")
    where = choose_device(device)
    dtypes = _body_dtypes(base, default_dtype(where))
    mesh = init_device_mesh(where.partition(":")[0], (gang.size,))
    blocks = dict(base.module.text.blocks.named_children())
    for name, block in blocks.items():
        _move(block, where, {key: dtypes[f"text.blocks.{name}.{key}"] for key, _ in block.named_parameters()})
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    _move(base.module, where, {key: dtype for key, dtype in dtypes.items() if not key.startswith("text.blocks.")})
    return replace(base, device=where), Divided(base.module, gang)


def _body_dtypes(base: BaseModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Of every parameter, as `load_base` would choose for the device."""
    with torch.device("meta"):
        module = Moondream(base.config).cast_body(dtype)
    return {name: parameter.dtype for name, parameter in module.named_parameters()}


def _move(module: nn.Module, device: str, dtypes: dict[str, torch.dtype]) -> None:
    """Give these parameters to the device as new ones: the process's other trees keep the old."""
    for name, dtype in dtypes.items():
        owner, _, leaf = name.rpartition(".")
        held = module.get_submodule(owner)
        moved = cast("Tensor", getattr(held, leaf)).detach().to(device, dtype)
        setattr(held, leaf, nn.Parameter(moved, requires_grad=False))
