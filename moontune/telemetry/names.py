"""The registry of every metric name: Prometheus metrics of the services, and the keys of training and job metrics.

Dashboards, alarms, the console and clients read these names; nothing else may make one up. Prometheus names follow
its conventions (base units, `_total`, `_seconds`); rpc metrics have go-grpc-prometheus's names, so that ready-made
dashboards work. Training keys are what `TrainStepResult.metrics`, `LogMetrics` and job progress carry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from moontune.values.rollout import Head


class Kind(StrEnum):
    """Prometheus's kinds."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricName:
    """One Prometheus metric; labels have few values each. buckets: upper edges, of a histogram only."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = field(default=())


RPC_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_RPC = ("grpc_type", "grpc_service", "grpc_method")

GRPC_STARTED = MetricName("grpc_server_started_total", Kind.COUNTER, "Rpcs started on the server.", _RPC)
GRPC_HANDLED = MetricName(
    "grpc_server_handled_total", Kind.COUNTER, "Rpcs completed on the server, by code.", (*_RPC, "grpc_code")
)
GRPC_RECEIVED = MetricName("grpc_server_msg_received_total", Kind.COUNTER, "Messages received by the server.", _RPC)
GRPC_SENT = MetricName("grpc_server_msg_sent_total", Kind.COUNTER, "Messages sent by the server.", _RPC)
GRPC_SECONDS = MetricName(
    "grpc_server_handling_seconds", Kind.HISTOGRAM, "Seconds until an rpc was handled.", _RPC, RPC_SECONDS
)

READY = MetricName("moontune_ready", Kind.GAUGE, "1 while the service takes calls.")
BUILD_INFO = MetricName("moontune_build_info", Kind.GAUGE, "Always 1.", ("service", "version", "base"))
IN_FLIGHT = MetricName("moontune_rpcs_in_flight", Kind.GAUGE, "Rpcs being answered now.")
WORKER_READY = MetricName("moontune_worker_ready", Kind.GAUGE, "1 while the model worker is loaded.")
WORKER_RESTARTS = MetricName("moontune_worker_restarts_total", Kind.COUNTER, "Deaths of the model worker.")

ROLLOUTS = MetricName("moontune_rollouts_total", Kind.COUNTER, "Rollouts generated.", ("skill", "finish_reason"))
GENERATED_TOKENS = MetricName("moontune_generated_decisions_total", Kind.COUNTER, "Decisions sampled.", ("skill",))
GROUP_SECONDS = MetricName(
    "moontune_rollout_group_seconds", Kind.HISTOGRAM, "Seconds to generate one group.", ("skill",), RPC_SECONDS
)
QUEUE_SECONDS = MetricName(
    "moontune_queue_seconds", Kind.HISTOGRAM, "Seconds a request waited for the engine.", (), RPC_SECONDS
)
RUNNING = MetricName("moontune_engine_running", Kind.GAUGE, "Sequences being decoded now.")
WAITING = MetricName("moontune_engine_waiting", Kind.GAUGE, "Requests waiting for the engine.")
FIRST_TOKEN_SECONDS = MetricName(
    "moontune_first_token_seconds",
    Kind.HISTOGRAM,
    "Seconds from a request's arrival in the engine to its first decision.",
    ("skill",),
    RPC_SECONDS,
)
TOKEN_SECONDS = MetricName(
    "moontune_decision_seconds",
    Kind.HISTOGRAM,
    "Mean seconds a decision of one request.",
    ("skill",),
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
ENGINE_STEPS = MetricName("moontune_engine_steps_total", Kind.COUNTER, "Decode steps.")
ENGINE_ROW_STEPS = MetricName(
    "moontune_engine_row_steps_total", Kind.COUNTER, "Rollouts summed over the steps; by steps, the mean batch."
)
ENGINE_ADAPTER_STEPS = MetricName(
    "moontune_engine_adapter_steps_total",
    Kind.COUNTER,
    "Distinct adapters summed over the steps; by steps, the mean number of adapters in a batch.",
)
ENGINE_CANCELLED = MetricName("moontune_engine_cancelled_total", Kind.COUNTER, "Orders whose caller left.")
ENGINE_SETTLED = MetricName(
    "moontune_engine_settled_total", Kind.COUNTER, "Orders decoded once more for a close greedy choice."
)
KV_BYTES = MetricName("moontune_kv_bytes", Kind.GAUGE, "Bytes of keys and values that the engine holds.")
KV_BUDGET_BYTES = MetricName("moontune_kv_budget_bytes", Kind.GAUGE, "Most bytes of keys and values.")
IMAGES_ENCODED = MetricName("moontune_images_encoded_total", Kind.COUNTER, "Images run through the vision tower.")
IMAGE_ENCODE_SECONDS = MetricName(
    "moontune_image_encode_seconds_total", Kind.COUNTER, "Seconds spent in the vision tower."
)
CACHE_HITS = MetricName("moontune_cache_hits_total", Kind.COUNTER, "Lookups found.", ("cache",))
CACHE_MISSES = MetricName("moontune_cache_misses_total", Kind.COUNTER, "Lookups not found.", ("cache",))
CACHE_BYTES = MetricName("moontune_cache_bytes", Kind.GAUGE, "Bytes held.", ("cache",))
CACHE_EVICTIONS = MetricName("moontune_cache_evictions_total", Kind.COUNTER, "Entries dropped for room.", ("cache",))
ADAPTER_FETCH_SECONDS = MetricName(
    "moontune_adapter_fetch_seconds", Kind.HISTOGRAM, "Seconds to bring an adapter's files here.", (), RPC_SECONDS
)
ADAPTER_RESIDENT = MetricName(
    "moontune_adapter_resident",
    Kind.GAUGE,
    "1 for each adapter in the engine's memory, by the first 12 digits of its digest and its tier.",
    ("adapter", "tier"),
)
ADAPTERS_DRAINING = MetricName("moontune_adapters_draining", Kind.GAUGE, "Adapters that go with their last request.")

SCORED = MetricName("moontune_rewards_scored_total", Kind.COUNTER, "Samples scored, by parse status.", ("status",))
SCORE_SECONDS = MetricName(
    "moontune_reward_seconds", Kind.HISTOGRAM, "Seconds to score one sample.", ("reward",), RPC_SECONDS
)

USER_FAILURES = MetricName(
    "moontune_reward_user_failures_total",
    Kind.COUNTER,
    "Samples that a user's reward gave no grade, by kind of source and by failure.",
    ("source", "failure"),
)
DISAGREEMENTS = MetricName(
    "moontune_reward_disagreements_total",
    Kind.COUNTER,
    "Samples whose reward changed when their batch was scored again in another order.",
)
SANDBOX_STARTS = MetricName("moontune_sandbox_starts_total", Kind.COUNTER, "Jails started.", ("language",))

TRAIN_STEPS = MetricName(
    "moontune_train_steps_total", Kind.COUNTER, "Steps asked for, by outcome: applied, dropped, replayed.", ("outcome",)
)
TRAIN_PHASE_SECONDS = MetricName(
    "moontune_train_phase_seconds", Kind.HISTOGRAM, "Seconds of each phase of a step.", ("phase",), RPC_SECONDS
)
TRAIN_HEALTH = MetricName("moontune_train_health", Kind.GAUGE, "Last step's training metrics, by key.", ("key",))
PUBLISH_SECONDS = MetricName(
    "moontune_policy_publish_seconds",
    Kind.HISTOGRAM,
    "Seconds from a step's commit until its adapter was downloaded whole, once a step.",
    (),
    RPC_SECONDS,
)
CHECKPOINTS = MetricName("moontune_checkpoints_total", Kind.COUNTER, "Checkpoints saved.", ("outcome",))
CHECKPOINT_BYTES = MetricName("moontune_checkpoint_bytes_total", Kind.COUNTER, "Bytes of saved checkpoints.")

JOBS = MetricName("moontune_jobs", Kind.GAUGE, "Jobs by state.", ("state",))
JOB_STEPS = MetricName("moontune_job_steps_total", Kind.COUNTER, "Steps driven by jobs.")
JOB_PHASE_SECONDS = MetricName(
    "moontune_job_phase_seconds", Kind.HISTOGRAM, "Seconds of each phase of the loop.", ("phase",), RPC_SECONDS
)

HTTP_REQUESTS = MetricName(
    "moontune_http_requests_total", Kind.COUNTER, "HTTP requests answered.", ("method", "route", "status")
)
HTTP_SECONDS = MetricName(
    "moontune_http_seconds", Kind.HISTOGRAM, "Seconds until a request was answered.", ("method", "route"), RPC_SECONDS
)


def all_metrics() -> list[MetricName]:
    """Every Prometheus metric above, in the order of the file."""
    return [value for value in globals().values() if isinstance(value, MetricName)]


class TrainKey(StrEnum):
    """Keys of the numbers that a training step reports; see `training_keys` for those that exist once per head."""

    REWARD_MEAN = "reward_mean"
    REWARD_STD = "reward_std"
    DEAD_GROUP_SHARE = "dead_group_share"
    ALL_MAX_SHARE = "all_max_share"
    ALL_MIN_SHARE = "all_min_share"
    NO_SCORE_SHARE = "no_score_share"
    LOSS = "loss"
    SFT_LOSS = "sft_loss"
    ENTROPY = "entropy"
    KL = "kl"
    CLIP_SHARE = "clip_share"
    RATIO_MEAN = "ratio_mean"
    MAX_RATIO = "max_ratio"
    MISMATCH_KL = "mismatch_kl"
    MASKED_SHARE = "masked_share"
    STALENESS_MEAN = "staleness_mean"
    STALENESS_MAX = "staleness_max"
    STALE_GROUPS = "stale_groups"
    UNVERIFIED_GROUPS = "unverified_groups"
    INJECTED_GROUPS = "injected_groups"
    TRUNCATED_SHARE = "truncated_share"
    OVERLONG_SHARE = "overlong_share"
    ADVANTAGE_STD = "advantage_std"
    GRAD_NORM = "grad_norm"
    LEARNING_RATE = "learning_rate"
    MEMORY_BYTES = "memory_bytes"
    N_PRED = "n_pred"
    N_GT = "n_gt"
    N_GROUPS = "n_groups"
    N_SFT_GROUPS = "n_sft_groups"
    N_ROLLOUTS = "n_rollouts"
    N_DECISIONS = "n_decisions"
    DECISIONS_MEAN = "decisions_mean"
    SECONDS_UPLOAD = "seconds_upload"
    SECONDS_PREPARE = "seconds_prepare"
    SECONDS_FORWARD = "seconds_forward"
    SECONDS_BACKWARD = "seconds_backward"
    SECONDS_OPTIMISER = "seconds_optimiser"
    SECONDS_PERSIST = "seconds_persist"
    SECONDS_STEP = "seconds_step"


class JobKey(StrEnum):
    """Keys that a job's loop adds to its training steps' keys."""

    ROLLOUT_SECONDS = "seconds_rollout"
    REWARD_SECONDS = "seconds_reward"
    TRAIN_SECONDS = "seconds_train"
    EVALUATE_SECONDS = "seconds_evaluate"
    HELD_OUT = "held_out"
    HELD_OUT_REWARD = "held_out_reward"
    BASE = "base"
    FINAL = "final"
    PARSE_RATE = "parse_rate"
    MIXED_GROUP_SHARE = "mixed_group_share"
    SECONDS = "seconds"


PER_HEAD: Mapping[str, str] = {
    "entropy": "mean entropy of the decisions of one head, nats",
    "kl": "mean KL to the base of the decisions of one head, nats",
    "clip_share": "share of one head's decisions whose ratio was clipped",
}


def per_head(name: str, head: Head) -> str:
    """`entropy_x` from ("entropy", Head.X); the name must be in PER_HEAD."""
    if name not in PER_HEAD:
        raise KeyError(f"{name} is not reported per head; these are: {sorted(PER_HEAD)}")
    return f"{name}_{head}"


def reward_component(component: str) -> str:
    """Key of a reward component's mean over a step: `reward/<component>`."""
    return f"reward/{component}"


def training_keys() -> Sequence[str]:
    """Every fixed key of a training step's metrics (reward components come on top)."""
    return [*TrainKey, *(per_head(name, head) for name in PER_HEAD for head in Head)]
