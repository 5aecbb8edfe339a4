"""A golden directory's adapter, imported the way a user's is, and attached."""

from collections.abc import Iterator
from contextlib import contextmanager

from moontune.model.adapter_forms.variant import read_variant
from moontune.model.lora import Adapters
from tools.check_golden.golden import Golden

NAME = "variant"


@contextmanager
def with_variant(golden: Golden) -> Iterator[None]:
    """The adapter acts inside the block, and is gone after it. Raises ValueError when there is none."""
    if golden.variant is None:
        raise ValueError(f"{golden.folder} has outputs with an adapter and no variant_lora.safetensors")
    adapters = Adapters(golden.model)
    tensors, _ = read_variant(golden.variant, golden.config)
    adapters.attach_tensors(NAME, tensors)
    adapters.activate(NAME)
    try:
        yield
    finally:
        adapters.remove(NAME)
