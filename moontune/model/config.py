"""Configurations of the Moondream family. Every size is a field: the 2B, the 0.5B and moontune-tiny are one class.

JSON form: the dataclasses below, nested, with the same names; unknown keys, missing keys and wrong types are all
reported at once. Fields with a default may be left out.
"""

import json
import reprlib
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter, ValidationError

from moontune.errors import FieldViolation, InvalidField

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision transformer and its projection.

    crop_size, patch_size: pixels; crop_size is a multiple of patch_size. max_crops: most local crops (the reference's
    tiling can exceed it for very long images). overlap_margin: patches shared with each neighbouring crop, per side.
    projection_inner_dim: hidden width of the projection MLP.
    """

    dim: int
    ff_dim: int
    layers: int
    heads: int
    patch_size: int
    crop_size: int
    max_crops: int
    overlap_margin: int
    projection_inner_dim: int
    channels: int = 3

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Image tokens P of any image: grid squared, however many crops."""
        return self.grid * self.grid


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text transformer. rotary_dim: how many of the head's dimensions are rotated (even, at most head_dim)."""

    dim: int
    ff_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_context: int
    rotary_dim: int
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True, slots=True)
class RegionConfig:
    """The region head. Feature widths count cosines and sines together, so both are even."""

    coord_feature_dim: int
    size_feature_dim: int
    inner_dim: int
    bins: int = 1024


@dataclass(frozen=True, slots=True)
class Template:
    """Token ids before and after the user's text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CaptionTemplates:
    """The whole prompt of each caption length; empty when the base cannot caption."""

    short: tuple[int, ...] = ()
    normal: tuple[int, ...] = ()
    long: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Special ids and prompt templates.

    query.suffix ends a prompt that is answered at once; reasoning_suffix replaces it when the model thinks first.
    Moondream 2 was trained on a doubled answer token there (`[3, 3]`) and on `[3, 4]` before reasoning.
    object_text: how an object's name is tokenised, `{object}` stands for the name (a leading space upstream).
    """

    bos_id: int
    eos_id: int
    answer_id: int
    thinking_id: int
    coord_id: int
    size_id: int
    start_ground_points_id: int
    end_ground_id: int
    query: Template
    reasoning_suffix: tuple[int, ...]
    detect: Template
    point: Template
    caption: CaptionTemplates = field(default_factory=CaptionTemplates)
    object_text: str = " {object}"


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Limits of a family: objects of one answer, and the rank of a LoRA adapter."""

    max_objects: int = 300
    max_lora_rank: int = 256


@dataclass(frozen=True, slots=True)
class MoondreamConfig:
    """A base model of the Moondream 2 architecture."""

    name: str
    vision: VisionConfig
    text: TextConfig
    region: RegionConfig
    tokenizer: TokenizerConfig
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @property
    def prefix_length(self) -> int:
        """Positions of BOS and the image tokens, which attend to each other in both directions."""
        return 1 + self.vision.tokens

    def to_json(self) -> str:
        """The JSON form, indented, keys in declared order."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "MoondreamConfig":
        """Read the JSON form; raises InvalidField with every problem found."""
        try:
            config = TypeAdapter(cls).validate_json(text, strict=True, extra="forbid")
        except ValidationError as error:
            problems = [_problem(each) for each in error.errors(include_url=False)]
        else:
            problems = _contradictions(config)
            if not problems:
                return config
        listed = "; ".join(problem.description for problem in problems)
        raise InvalidField(f"the model config does not fit: {listed}", violations=problems)


def _problem(error: "ErrorDetails") -> FieldViolation:
    path = "config" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    says = {"missing": "is missing", "unexpected_keyword_argument": "is not known"}.get(error["type"])
    given = f"is {_SHORT.repr(error['input'])}: {error['msg']}"
    return FieldViolation(path, f"{path} {says or given}")


def _not_positive(config: MoondreamConfig) -> list[FieldViolation]:
    """Sizes of 0 or less; overlap_margin and rotary_dim may be 0."""
    return [
        FieldViolation(f"config.{part}.{item.name}", f"config.{part}.{item.name} must be more than 0")
        for part, sizes in (("text", config.text), ("vision", config.vision), ("region", config.region))
        for item in fields(sizes)
        if item.name not in ("overlap_margin", "rotary_dim") and not cast("float", getattr(sizes, item.name)) > 0
    ]


def _contradictions(config: MoondreamConfig) -> list[FieldViolation]:
    """Sizes that each read well but do not fit together."""
    if unset := _not_positive(config):
        return unset
    text, vision, region, tokenizer = config.text, config.vision, config.region, config.tokenizer
    ids = {
        name: cast("int", getattr(tokenizer, name))
        for name in ("bos_id", "eos_id", "answer_id", "thinking_id", "coord_id", "size_id")
    }
    rules = [
        (text.dim % text.heads == 0, "text.heads", "a divisor of text.dim"),
        (text.heads % text.kv_heads == 0, "text.kv_heads", "a divisor of text.heads"),
        (
            0 <= text.rotary_dim <= text.head_dim and text.rotary_dim % 2 == 0,
            "text.rotary_dim",
            f"even, 0 to the head's width {text.head_dim}",
        ),
        (vision.dim % vision.heads == 0, "vision.heads", "a divisor of vision.dim"),
        (vision.crop_size % vision.patch_size == 0, "vision.crop_size", "a multiple of vision.patch_size"),
        (
            0 <= 2 * vision.overlap_margin < vision.grid,
            "vision.overlap_margin",
            f"0 to less than half of the {vision.grid} patches of a side",
        ),
        (region.coord_feature_dim % 2 == 0, "region.coord_feature_dim", "even"),
        (region.size_feature_dim % 2 == 0, "region.size_feature_dim", "even"),
        (region.bins > 1, "region.bins", "2 or more"),
        (config.prefix_length < text.max_context, "text.max_context", f"more than the prefix {config.prefix_length}"),
        ("{object}" in tokenizer.object_text, "tokenizer.object_text", "a text with {object}"),
        *(
            (0 <= value < text.vocab_size, f"tokenizer.{name}", "an id of the vocabulary")
            for name, value in ids.items()
        ),
    ]
    return [
        FieldViolation(f"config.{name}", f"config.{name} does not fit; allowed: {allowed}")
        for holds, name, allowed in rules
        if not holds
    ]
