"""The only place that names a device.

Everything here was run on the CPU. cuda, mps, npu and xpu go through torch's accelerator interface or its name for the
device; cuda has not been run by this project yet, and nobody here has ever run the other three.
"""

import os

import torch

from moontune.errors import InvalidField

KNOWN = ("cpu", "cuda", "mps", "npu", "xpu")
"""Device types that a setting may name."""


def choose_device(wanted: str | None = None) -> str:
    """The device to run on: the one named ("cpu", "cuda", "cuda:1", ...), else the accelerator, else the CPU.

    Of several ranks under torchrun each takes its own accelerator, unless one is named by its number. Raises
    InvalidField for a device that this machine does not have.
    """
    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted is None:
        return _own(present.type) if present is not None else "cpu"
    kind, _, index = wanted.partition(":")
    available = ("cpu",) if present is None else ("cpu", present.type)
    known = kind in KNOWN and kind in available and (not index or index.isdecimal())
    if not known or (index and kind != "cpu" and int(index) >= torch.accelerator.device_count()):
        raise InvalidField.of("device", wanted, f"one of {', '.join(available)} on this machine, or unset")
    return wanted if index else _own(wanted)


def _own(kind: str) -> str:
    """The accelerator of this kind that torchrun's rank has: the one with its number on this machine."""
    rank = os.environ.get("LOCAL_RANK", "")
    return f"{kind}:{rank}" if kind != "cpu" and rank.isdecimal() else kind


def default_dtype(device: str) -> torch.dtype:
    """What a model's body computes in: fp32 on the CPU, bf16 on an accelerator. Heads are fp32 everywhere."""
    return torch.float32 if device.startswith("cpu") else torch.bfloat16


def compile_backend(device: str, *, wanted: bool) -> str | None:
    """What torch.compile is to make of a model's blocks, None for nothing: never on the CPU, elsewhere where `wanted`.

    No accelerator has run it, so it is off unless MOONTUNE_COMPILE asks for it.
    """
    return "inductor" if wanted and not device.startswith("cpu") else None


def memory_bytes(device: str) -> int:
    """Of the device, or of the machine where the device has none of its own."""
    if not device.startswith("cpu"):
        _, total_bytes = torch.accelerator.get_memory_info(device)
        return total_bytes
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def release_cached_memory() -> None:
    """Give what torch's allocator holds unused back to the device; nothing on the CPU."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def collective_backend(device: str) -> str:
    """What ranks that train on this device talk over, in torch.distributed's form."""
    return "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
