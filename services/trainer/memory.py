"""What training takes of a device's memory: a finetune's numbers, a pass's activations, and running out of it.

A finetune in memory is its parameters, their gradients and AdamW's two moments, in fp32 all. A pass keeps the
activations of its positions until the backward; with recomputation only each block's input.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from moontune.errors import ResourceExhausted
from moontune.model.config import MoondreamConfig
from moontune.model.device import memory_bytes, release_cached_memory
from moontune.values.finetune import Finetune

BYTES_PER_NUMBER = 16
"""Parameter, gradient and two moments, 4 bytes each."""
FINETUNES_SHARE = 0.5
"""Of a device's memory that finetunes may take where no figure is set; the rest is the base's and the passes'."""
WIDTHS_PER_LAYER = 16
"""Activations that a text block keeps for its backward, in hidden widths a position; 14 were measured with LoRA."""
DECISION_COPIES = 4
"""Copies of a token decision's logits that are kept: logits, masked, log-probabilities, and the mask."""


def finetune_bytes(numbers: int) -> int:
    """Bytes of a finetune of so many parameters, in memory and in training."""
    return BYTES_PER_NUMBER * numbers


def default_budget(device: str) -> int:
    """Bytes for finetunes where none are set: a share of the device's whole memory, the same after every restart."""
    return int(FINETUNES_SHARE * memory_bytes(device))


def pass_positions(config: MoondreamConfig, budget_bytes: int, least: int) -> int:
    """How many positions a pass may have within so many bytes of activations, in fp32; at least `least`."""
    text = config.text
    per_position = 4 * (text.layers * WIDTHS_PER_LAYER * text.dim + DECISION_COPIES * text.vocab_size)
    return max(least, budget_bytes // per_position)


def refuse_beyond(needed: int, budget: int, finetune: Finetune) -> None:
    """Raise ResourceExhausted, with the figures, where a finetune cannot be held even alone."""
    if needed > budget:
        raise ResourceExhausted(
            f"finetune {finetune.name!r} ({finetune.kind}) takes {_mib(needed)} in training: parameters, gradients and "
            f"two moments in fp32; this trainer gives finetunes {_mib(budget)}. Take a smaller rank or fewer targets, "
            "or raise finetune_memory_bytes",
            metadata={"needed_bytes": str(needed), "budget_bytes": str(budget)},
        )


@contextmanager
def told_when_out(what: str) -> Generator[None]:
    """Turn running out of memory into ResourceExhausted; nothing of the block is kept, so nothing was applied."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        release_cached_memory()
        raise ResourceExhausted(
            f"out of memory while {what}; nothing was applied. Lower micro_tokens (or pass_memory_bytes), or turn "
            f"recompute on ({str(error).splitlines()[0][:200]})"
        ) from None


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # the CPU's allocator has no class of its own


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
