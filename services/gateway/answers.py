"""What calls answer, for the OpenAPI document. Routes build these bodies by hand; a test holds them to these forms.

Moondream's fields stand first; what is ours comes after them.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel


class Answer(BaseModel):
    """A body of ours. Fields may be added to it."""


class Region(Answer):
    """A box in 0..1."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class Position(Answer):
    """A point in 0..1."""

    x: float
    y: float


class ReasoningSpan(Answer):
    """A span of the reasoning's characters and the points that it refers to."""

    start_idx: int
    end_idx: int
    points: list[tuple[float, float]]


class ReasoningText(Answer):
    """What was thought before the answer."""

    text: str
    grounding: list[ReasoningSpan]


class Policy(Answer):
    """Which weights answered. finetune_id and adapter_digest are "" for the bare base."""

    base: str
    base_digest: str
    finetune_id: str
    step: int
    adapter_digest: str


class AnswerMetrics(Answer):
    """Tokens counted and milliseconds spent; ttft: until the first decision."""

    input_tokens: int
    output_tokens: int
    prefill_time_ms: float
    decode_time_ms: float
    ttft_ms: float


class InferenceAnswer(Answer):
    """What every plain answer carries."""

    finish_reason: str
    request_id: str
    metrics: AnswerMetrics
    moontune: Policy


class QueryAnswer(InferenceAnswer):
    """An answer; reasoning where it was asked for."""

    answer: str
    reasoning: ReasoningText | None = None


class CaptionAnswer(InferenceAnswer):
    """A description."""

    caption: str


class PointAnswer(InferenceAnswer):
    """Positions."""

    points: list[Position]


class DetectAnswer(InferenceAnswer):
    """Boxes."""

    objects: list[Region]


class ChatMessage(Answer):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str | None = None


class ChatChoice(Answer):
    """The only choice."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatUsage(Answer):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(Answer):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    moontune: Policy


class ModelEntry(Answer):
    """What can be named as `model`. created: seconds since 1970; 0 for a base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    skills: list[str]
    adapter_digest: str


class ModelsAnswer(Answer):
    """The base, then saved steps."""

    object: Literal["list"]
    data: list[ModelEntry]


class HealthAnswer(Answer):
    """services: the state of each by name."""

    status: Literal["ok", "not_ready"]
    services: dict[str, str]


class FinetuneInfo(Answer):
    """A finetune. step: of its present policy."""

    finetune_id: str
    name: str
    rank: int
    created_at_ms: int
    updated_at_ms: int
    step: int
    base: str


class FinetuneCreated(Answer):
    """The finetune of this name and rank."""

    finetune_id: str
    finetune: FinetuneInfo


class FinetuneAnswer(Answer):
    """One finetune."""

    finetune: FinetuneInfo


class PageAnswer(Answer):
    """One page of a list; next_cursor is null on the last."""

    next_cursor: str | None
    has_more: bool


class FinetunesAnswer(PageAnswer):
    """Oldest first."""

    finetunes: list[FinetuneInfo]


class OkAnswer(Answer):
    """Done."""

    ok: Literal[True]


class RolloutOutput(Answer):
    """What a rollout answered; which field is there depends on the skill."""

    answer: str | None = None
    reasoning: ReasoningText | None = None
    points: list[Position] | None = None
    objects: list[Region] | None = None


class RolloutObject(Answer):
    """One attempt; send it back unchanged. moontune: the signed record of how it was sampled."""

    skill: Literal["query", "point", "detect"]
    finish_reason: str
    output: RolloutOutput
    answer_tokens: list[int]
    thinking_tokens: list[int]
    has_answer_separator: bool
    coords: list[int]
    sizes: list[tuple[int, int]]
    moontune: dict[str, object]


class RolloutsAnswer(Answer):
    """request: as it was sent. rewards: in the rollouts' order; null without ground truth."""

    request: dict[str, object]
    rollouts: list[RolloutObject]
    rewards: list[float | None] | None


class TrainStepAnswer(Answer):
    """What a step did. applied: whether the weights changed, `reason` says why not. Figures are null where none is.

    replayed: the same step was applied before and this is its answer. metrics: every figure of the trainer.
    """

    step: int
    applied: bool
    kl: float | None
    router_kl: float | None
    grad_norm: float | None
    sft_loss: float | None
    reward_mean: float | None
    reward_std: float | None
    reason: str
    adapter_digest: str
    replayed: bool
    metrics: dict[str, float]


class MetricsAnswer(Answer):
    """How many numbers were logged."""

    ok: Literal[True]
    step: int
    logged_count: int


class CheckpointInfo(Answer):
    """A saved step. expires_at_ms: null where it is kept for good."""

    checkpoint_id: str
    finetune_id: str
    step: int
    expires_at_ms: int | None
    created_at_ms: int
    updated_at_ms: int
    adapter_digest: str


class CheckpointsAnswer(PageAnswer):
    """By ascending step."""

    checkpoints: list[CheckpointInfo]


class CheckpointSaved(Answer):
    """The step that was saved."""

    ok: Literal[True]
    checkpoint: CheckpointInfo


class DownloadAnswer(Answer):
    """A link that works without a key for `expires_in` seconds."""

    url: str
    expires_in: int
    format: Literal["photon", "peft"]
    adapter_digest: str


class GroupCounts(Answer):
    """Groups of a step by kind."""

    rl: int
    sft: int


class TrainLogEntry(Answer):
    """One applied step."""

    id: str
    step: int
    metadata: GroupCounts


class TrainLogsAnswer(PageAnswer):
    """Newest first."""

    steps: list[TrainLogEntry]


class TrainLogAnswer(Answer):
    """One step's figures."""

    step: int
    metadata: GroupCounts
    metrics: dict[str, float]


_FINETUNES = "/v1/tuning/finetunes"
_FINETUNE = f"{_FINETUNES}/{{finetune_id}}"
ANSWER_FORMS: Mapping[str, type[Answer]] = {
    "GET /health": HealthAnswer,
    "GET /v1/models": ModelsAnswer,
    "POST /v1/query": QueryAnswer,
    "POST /v1/caption": CaptionAnswer,
    "POST /v1/point": PointAnswer,
    "POST /v1/detect": DetectAnswer,
    "POST /v1/chat/completions": ChatAnswer,
    f"POST {_FINETUNES}": FinetuneCreated,
    f"GET {_FINETUNES}": FinetunesAnswer,
    f"GET {_FINETUNE}": FinetuneAnswer,
    f"DELETE {_FINETUNE}": OkAnswer,
    f"POST {_FINETUNE}/metrics": MetricsAnswer,
    f"GET {_FINETUNE}/checkpoints": CheckpointsAnswer,
    f"POST {_FINETUNE}/checkpoints/save": CheckpointSaved,
    f"DELETE {_FINETUNE}/checkpoints/{{step}}": OkAnswer,
    f"GET {_FINETUNE}/checkpoints/{{step}}/download": DownloadAnswer,
    f"GET {_FINETUNE}/train_logs": TrainLogsAnswer,
    f"GET {_FINETUNE}/train_logs/{{file_id}}": TrainLogAnswer,
    "POST /v1/tuning/rollouts": RolloutsAnswer,
    "POST /v1/tuning/train_step": TrainStepAnswer,
}
"""The form of a 200 by method and path. Streamed answers are events; docs/http_api.md has their form."""
