"""Mixed precision: the body's matrix products in bf16, weights, gradients, moments and heads in fp32.

Micikevicius et al. 2018, arXiv 1710.03740; bf16 has fp32's range, so no loss scale is needed.
"""

from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

from moontune.model.moondream import Moondream

Parameters = ParamSpec("Parameters")


def autocast_body(module: Moondream, device: str) -> None:
    """Let text blocks and vision tower of a module tree of one's own compute in bf16; heads are left alone."""
    kind = device.partition(":")[0]

    def in_bf16(forward: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
            with torch.autocast(kind, dtype=torch.bfloat16):
                return forward(*args, **kwargs)

        return run

    module.text.hidden = in_bf16(module.text.hidden)
    module.vision.encode_crops = in_bf16(module.vision.encode_crops)
    module.vision.project = in_bf16(module.vision.project)
