"""Request bodies of the HTTP API, as Moondream's client sends them.

Settings and top-level tuning bodies refuse unknown fields (a mistyped setting must not pass in silence); rollouts and
groups keep what they do not know, because callers echo them.
"""

from typing import Annotated, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Ids = Annotated[list[Count], Field(max_length=8192)]


class Body(BaseModel):
    """A body that ignores fields it does not know."""

    model_config = ConfigDict(strict=True, extra="ignore")


class StrictBody(BaseModel):
    """A body that refuses fields it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid")


class SettingsBody(StrictBody):
    """Sampling settings; what is left out takes the skill's default."""

    temperature: Number | None = None
    top_p: Number | None = None
    max_tokens: int | None = None
    max_objects: int | None = None


class RegionBody(Body):
    """A box in 0..1."""

    x_min: Number
    y_min: Number
    x_max: Number
    y_max: Number


class PointBody(Body):
    """A point in 0..1."""

    x: Number
    y: Number


SpatialRefs = Annotated[list[Annotated[list[Number], Field(min_length=2, max_length=4)]], Field(max_length=64)]


class SkillRequestBody(BaseModel):
    """One question about one image. Unknown fields are echoed, not read."""

    model_config = ConfigDict(strict=True, extra="allow")

    skill: Literal["query", "point", "detect"]
    image_url: str | None = None
    question: str | None = None
    object: str | None = None
    spatial_refs: SpatialRefs | None = None
    reasoning: bool | None = None
    settings: SettingsBody | None = None


class GroundTruthBody(StrictBody):
    """Labels: boxes for detect; boxes or points for point."""

    boxes: Annotated[list[RegionBody], Field(max_length=1000)] | None = None
    points: Annotated[list[PointBody], Field(max_length=1000)] | None = None


class CreateFinetuneBody(StrictBody):
    """Create a finetune; the same name and rank again give the same one."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
    rank: Literal[8, 16, 24, 32]


class RolloutsBody(StrictBody):
    """Generate attempts at one request with a finetune's current policy."""

    finetune_id: str
    num_rollouts: Annotated[int, Field(ge=1, le=16)] = 1
    request: SkillRequestBody
    ground_truth: GroundTruthBody | None = None


class GroundingBody(Body):
    """A span of the reasoning and the places it refers to."""

    start_idx: Count
    end_idx: Count
    points: list[Annotated[list[Number], Field(min_length=2, max_length=2)]] = Field(default_factory=list[list[float]])


class ReasoningBody(Body):
    """Text thought before the answer."""

    text: str
    grounding: list[GroundingBody] | None = None


class OutputBody(Body):
    """What a rollout answered; which field is there depends on the skill."""

    answer: str | None = None
    reasoning: ReasoningBody | None = None
    points: Annotated[list[PointBody], Field(max_length=1000)] | None = None
    objects: Annotated[list[RegionBody], Field(max_length=1000)] | None = None


class RolloutBody(Body):
    """A rollout as `/rollouts` gave it, or one that the caller made. `moontune` is our signed record."""

    skill: Literal["query", "point", "detect"]
    finish_reason: str = "stop"
    output: OutputBody
    answer_tokens: Ids = Field(default_factory=list[int])
    thinking_tokens: Ids = Field(default_factory=list[int])
    has_answer_separator: bool = False
    coords: Ids = Field(default_factory=list[int])
    sizes: Annotated[list[Annotated[list[Count], Field(min_length=2, max_length=2)]], Field(max_length=1000)] = Field(
        default_factory=list[list[int]]
    )
    moontune: object = None


def _unwrapped(request: object) -> object:
    """Callers send either the inner request or the whole `/rollouts` body that holds it; take the inner one."""
    if isinstance(request, dict) and isinstance(inner := cast("dict[str, object]", request).get("request"), dict):
        return cast("dict[str, object]", inner)
    return cast("object", request)


GroupRequest = Annotated[SkillRequestBody, BeforeValidator(_unwrapped)]


class TargetBody(StrictBody):
    """The right answer of a group."""

    answer: str | None = None
    reasoning: ReasoningBody | None = None
    points: Annotated[list[PointBody], Field(max_length=1000)] | None = None
    boxes: Annotated[list[RegionBody], Field(max_length=1000)] | None = None


class RlGroupBody(Body):
    """One request, its rollouts, one reward each (null: no score). target: the right answer, where one is known."""

    mode: Literal["rl"] = "rl"
    request: GroupRequest
    rollouts: Annotated[list[RolloutBody], Field(min_length=1, max_length=64)]
    rewards: Annotated[list[Number | None], Field(max_length=64)]
    target: TargetBody | None = None


class SftGroupBody(Body):
    """One request and its right answer."""

    mode: Literal["sft"]
    request: GroupRequest
    target: TargetBody


def _mode(group: object) -> str:
    if isinstance(group, dict):
        return "sft" if cast("dict[str, object]", group).get("mode") == "sft" else "rl"
    return "sft" if isinstance(group, SftGroupBody) else "rl"


GroupBody = Annotated[
    Annotated[RlGroupBody, Tag("rl")] | Annotated[SftGroupBody, Tag("sft")],
    Discriminator(_mode),
]


class StepFields(StrictBody):
    """A train step but for its groups. Beside Moondream's fields those of our TrainSettings are taken by name."""

    finetune_id: str
    lr: Number = 2e-4
    expected_step: Count | None = None
    loss: str | None = None
    clip_low: Number | None = None
    clip_high: Number | None = None
    kl_weight: Number | None = None
    entropy_weight: Number | None = None
    normalise_std: bool | None = None
    max_grad_norm: Number | None = None
    weight_decay: Number | None = None
    beta1: Number | None = None
    beta2: Number | None = None
    correction: str | None = None
    mask_band: Number | None = None
    max_staleness_steps: int | None = None
    sft_weight: Number | None = None
    passes: int | None = None
    dual_clip: Number | None = None
    aggregation: str | None = None
    entropy_heads: dict[str, Number] | None = None
    mask_truncated: bool | None = None
    overlong_positions: int | None = None
    overlong_penalty: Number | None = None
    object_order: str | None = None
    ground_truth_reward: Number | None = None
    epsilon: Number | None = None
    optimiser: str | None = None


class TrainStepBody(StepFields):
    """One optimiser step over RL and SFT groups. `step_body` reads it group by group."""

    groups: Annotated[list[GroupBody], Field(min_length=1, max_length=256)]


class MetricsBody(StrictBody):
    """The caller's own numbers for a step."""

    step: Count
    metrics: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]{1,128}$")], Number], Field(min_length=1, max_length=100)
    ]


class InferenceBody(Body):
    """What every call has. model: a base or `<base>/<finetune_id>@<step>`. adapter: `<finetune_id>/<step>`.

    stream: as events, where the endpoint can; point and detect cannot.
    """

    model: str | None = None
    adapter: str | None = None
    image_url: str | None = None
    stream: bool = False
    settings: SettingsBody | None = None


class QueryBody(InferenceBody):
    """Ask a question."""

    question: str
    reasoning: bool | None = None
    spatial_refs: SpatialRefs | None = None


class ObjectBody(InferenceBody):
    """Find an object (point, detect and segment). spatial_refs: point only."""

    object: str
    spatial_refs: SpatialRefs | None = None


class CaptionBody(InferenceBody):
    """Describe the image."""

    length: Literal["short", "normal", "long"] = "normal"


class ImageUrlBody(Body):
    """Where an image of a chat message is: a data URL."""

    url: str


class TextPart(Body):
    """Words of a chat message."""

    type: Literal["text"]
    text: str


def _as_url(given: object) -> object:
    """OpenAI's object, from the URL alone that some callers send."""
    return {"url": given} if isinstance(given, str) else given


class ImagePart(Body):
    """An image of a chat message; OpenAI's form, or the URL alone."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrlBody, BeforeValidator(_as_url, json_schema_input_type=ImageUrlBody | str)]


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _as_parts(given: object) -> object:
    """A list of parts, from the plain text that most messages are."""
    if given is None:
        return []
    return [{"type": "text", "text": given}] if isinstance(given, str) else given


class ChatMessageBody(Body):
    """One turn of a conversation. Images stand in the user's turns."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[ContentPart],
        Field(max_length=64),
        BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart] | None),
    ] = Field(default_factory=list[TextPart | ImagePart])


class ChatBody(Body):
    """OpenAI's chat completion, as far as a vision-language model with one image can answer it."""

    model: str = "moondream3-preview"
    adapter: str | None = None
    messages: Annotated[list[ChatMessageBody], Field(min_length=1, max_length=256)]
    stream: bool = False
    reasoning: bool | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: Literal[1] | None = None
