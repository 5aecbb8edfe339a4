"""The files of the community's Moondream 2 trainer: LoRA of the text layers, and the whole region head beside it.

`text.blocks.{i}.attn|mlp.{qkv,proj,fc1,fc2}.lora_A` [in, r] and `.lora_B` [r, out], scaled by alpha / r, and every
tensor of `region.`; neither rank nor alpha is in the file. Source: moondream-finetuning's `get_lora_state_dict`.
Read only: that trainer has no use for adapters that it did not make.
"""

import re
from pathlib import Path

from torch import Tensor

from moontune.model.adapter_tensors import AdapterTensors, Problem, adapter_of, paired, refuse
from moontune.model.config import MoondreamConfig
from moontune.model.tensor_file import read_tensors

DEFAULT_ALPHA = 64.0
"""What that trainer uses unless told otherwise."""

_NAME = re.compile(r"(text\.blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.(?:fc1|fc2)))\.lora_(A|B)")


def read_community(path: Path, config: MoondreamConfig, alpha: float | None) -> AdapterTensors:
    """The adapter of such a file. alpha: None is DEFAULT_ALPHA. InvalidField lists what does not fit."""
    halves: dict[str, Tensor] = {}
    full: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for name, tensor in read_tensors(path).items():
        plain = name.removeprefix("model.")
        match = _NAME.fullmatch(plain)
        if match is not None and tensor.ndim == 2:
            halves[f"{match[1]}.{match[2].lower()}"] = tensor.T.contiguous()
        elif plain.startswith("region."):
            full[plain] = tensor
        else:
            problems.append((name, "is neither a LoRA of a text layer nor a tensor of the region head"))
    refuse(problems, f"{path.name} holds what this form has no place for")
    return adapter_of(paired(halves), DEFAULT_ALPHA if alpha is None else alpha, full, config)
