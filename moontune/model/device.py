"""The only place that names a device.

cpu and cuda are run by us; mps and npu go through torch's accelerator interface and nobody here has run them.
"""

import torch

from moontune.errors import InvalidField

KNOWN = ("cpu", "cuda", "mps", "npu", "xpu")
"""Device types that a setting may name."""


def choose_device(wanted: str | None = None) -> str:
    """The device to run on: the one named ("cpu", "cuda", "cuda:1", ...), else the accelerator, else the CPU.

    Raises InvalidField for a device that this machine does not have.
    """
    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted is None:
        return present.type if present is not None else "cpu"
    kind, _, index = wanted.partition(":")
    available = ("cpu",) if present is None else ("cpu", present.type)
    known = kind in KNOWN and kind in available and (not index or index.isdecimal())
    if not known or (index and kind != "cpu" and int(index) >= torch.accelerator.device_count()):
        raise InvalidField.of("device", wanted, f"one of {', '.join(available)} on this machine, or unset")
    return wanted


def default_dtype(device: str) -> torch.dtype:
    """What a model's body computes in: fp32 on the CPU, bf16 on an accelerator. Heads are fp32 everywhere."""
    return torch.float32 if device.startswith("cpu") else torch.bfloat16
