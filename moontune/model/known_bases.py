"""The bases that moontune knows by name: where their weights are published, and under which licence. Torch-free."""

from dataclasses import dataclass

from moontune.errors import ModelNotFound
from moontune.model.config import MoondreamConfig
from moontune.model.presets import MOONDREAM2, MOONDREAM3

APACHE = "Apache-2.0"
BSL = "BSL 1.1"
BSL_NOTE = (
    "Business Source License 1.1 of M87 Labs. It covers derivatives too: finetunes, adapters, merges and quantised "
    "copies. Serving them to third parties needs an agreement with M87 Labs; read the licence beside the weights."
)
STARMIE = "moondream/starmie-v1"
"""Where the 2025 vocabulary's tokenizer.json is published."""


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A published base, or the one in the package.

    repository: on the Hugging Face hub; "" for the package's own. revision: branch, tag or commit. weights: patterns of
    its weight files. tokenizer_repository: where its tokenizer.json comes from. note: what the licence means, if not
    plain.
    """

    name: str
    licence: str
    description: str
    config: MoondreamConfig | None = None
    repository: str = ""
    revision: str = "main"
    weights: tuple[str, ...] = ()
    tokenizer_repository: str = ""
    note: str = ""


KNOWN_BASES = (
    KnownBase("moontune-tiny", APACHE, "2.8 million parameters, in the package: to try moontune on a laptop"),
    KnownBase(
        "moondream2",
        APACHE,
        "1.9 billion parameters: query, caption, point, detect",
        MOONDREAM2,
        "vikhyatk/moondream2",
        weights=("model.safetensors",),
        tokenizer_repository=STARMIE,
    ),
    KnownBase(
        "moondream3-preview",
        BSL,
        "9 billion parameters, 2 billion active: mixture of experts",
        MOONDREAM3,
        "moondream/moondream3-preview",
        weights=("*.safetensors", "model.safetensors.index.json"),
        tokenizer_repository=STARMIE,
        note=BSL_NOTE,
    ),
)


def known_base(name: str) -> KnownBase:
    """The base of this name; raises ModelNotFound naming those there are."""
    for base in KNOWN_BASES:
        if base.name == name:
            return base
    names = ", ".join(base.name for base in KNOWN_BASES)
    raise ModelNotFound(f"{name!r} is no base that moontune knows; it knows {names}", metadata={"base": name})
