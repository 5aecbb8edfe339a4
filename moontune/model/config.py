"""Configurations of the Moondream family. Every size is a field: 2 (2B, 0.5B), 3 and moontune-tiny are one class.

JSON form: the dataclasses below, nested, with the same names; unknown keys, missing keys and wrong types are all
reported at once. Fields with a default may be left out.
"""

import json
import reprlib
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter, ValidationError

from moontune.errors import FieldViolation, InvalidField
from moontune.imaging.crops import CropLayout

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MAY_BE_ZERO = ("overlap_margin", "rotary_dim", "start_layer")
_MOST = {"layers": 1024, "experts": 4096, "channels": 16, "patch_size": 4096}
"""Of some sizes; an architecture beyond them takes minutes to build, or more numbers than can be counted."""
_MOST_OF_ALL = 1 << 20
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

    @property
    def crop_layout(self) -> CropLayout:
        """How an image is cut for this tower."""
        return CropLayout(self.crop_size, self.overlap_margin * self.patch_size, self.max_crops)


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """A mixture of experts in place of the MLP, from layer `start_layer` (0-based) on.

    experts: in each layer. experts_per_token: how many of them a token is sent to. inner_dim: of one expert.
    """

    experts: int
    experts_per_token: int
    inner_dim: int
    start_layer: int


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text transformer.

    rotary_dim: how many of the head's dimensions are rotated (even, at most head_dim). moe: None keeps a dense MLP in
    every layer. tau: whether queries and values are scaled by token and position (Moondream 3).
    """

    dim: int
    ff_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_context: int
    rotary_dim: int
    rope_theta: float = 10_000.0
    moe: MoeConfig | None = None
    tau: bool = False

    def is_moe(self, layer: int) -> bool:
        """Whether this layer (0-based) has experts."""
        return self.moe is not None and layer >= self.moe.start_layer

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True, slots=True)
class RegionConfig:
    """The region head. Feature widths count cosines and sines together, so both are even.

    inner_dim: hidden width of the decoders; None makes them linear (Moondream 3). norm: a LayerNorm before them.
    """

    coord_feature_dim: int
    size_feature_dim: int
    inner_dim: int | None
    bins: int = 1024
    norm: bool = False


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


class Vocabulary(StrEnum):
    """Which tokenizer the weights were trained with; see `moontune.model.tokenizer`."""

    MOONDREAM = "moondream"
    GPT2 = "gpt2"
    ANY = "any"


class GoOn(StrEnum):
    """When another object follows: the odds of `coord_id` against `eos_id`, or of the likeliest token but `eos_id`."""

    COORD = "coord"
    ANY_TOKEN = "any_token"


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Special ids and prompt templates.

    query.suffix ends a prompt that is answered at once; reasoning_suffix replaces it when the model thinks first, and
    is empty for a base that cannot. Moondream 2 was trained on a doubled answer token (`[3, 3]`) and on `[3, 4]`
    before reasoning. object_text, question_text: how a name or question is tokenised; `{object}` and `{question}`
    stand for it (upstream puts a space before an object). vocabulary: which tokenizer file belongs to the weights.
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
    question_text: str = "{question}"
    vocabulary: Vocabulary = Vocabulary.ANY
    go_on: GoOn = GoOn.COORD


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Limits of a family: objects of one answer, and the rank of a LoRA adapter."""

    max_objects: int = 300
    max_lora_rank: int = 256


@dataclass(frozen=True, slots=True)
class MoondreamConfig:
    """A base model of the Moondream architecture: 2, 3 and moontune-tiny are this class with different values."""

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


def _out_of_range(config: MoondreamConfig) -> list[FieldViolation]:
    """Sizes of 0 or less (those of _MAY_BE_ZERO may be 0), and sizes that only a slip or an attack can mean."""
    parts = {"text": config.text, "text.moe": config.text.moe, "vision": config.vision, "region": config.region}
    found: list[FieldViolation] = []
    for part, sizes in parts.items():
        for item in fields(sizes) if sizes is not None else ():
            value, path = cast("object", getattr(sizes, item.name)), f"config.{part}.{item.name}"
            most = _MOST.get(item.name, _MOST_OF_ALL)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if item.name not in _MAY_BE_ZERO and not value > 0:
                found.append(FieldViolation(path, f"{path} must be more than 0"))
            if isinstance(value, int) and value > most:
                found.append(FieldViolation(path, f"{path} must be at most {most}"))
    return found


def _contradictions(config: MoondreamConfig) -> list[FieldViolation]:
    """Sizes that each read well but do not fit together."""
    if strange := _out_of_range(config):
        return strange
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
        (not text.tau or text.kv_heads == text.heads, "text.tau", "false with grouped key/value heads"),
        (
            text.moe is None or text.moe.experts_per_token <= text.moe.experts,
            "text.moe.experts_per_token",
            "at most text.moe.experts",
        ),
        (text.moe is None or text.moe.start_layer >= 0, "text.moe.start_layer", "0 or more"),
        ("{object}" in tokenizer.object_text, "tokenizer.object_text", "a text with {object}"),
        ("{question}" in tokenizer.question_text, "tokenizer.question_text", "a text with {question}"),
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
