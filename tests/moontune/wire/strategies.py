"""Hypothesis strategies for the values that cross the wire: everything in range, nothing else."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from moontune.values.adapter import (
    AdapterImport,
    AdapterManifest,
    AdapterState,
    AdapterStatus,
    BundleFile,
    ExportKind,
    ExportManifest,
    FileChunk,
    ImportKind,
)
from moontune.values.dataset import DatasetFormat, DatasetProblem, DatasetState, DatasetUpload, StoredDataset
from moontune.values.engine import CacheStatus, EngineStatus, EngineWork
from moontune.values.finetune import (
    AttentionWiring,
    BranchPoint,
    Checkpoint,
    CheckpointRef,
    Finetune,
    FinetuneKind,
    LoraSettings,
    LoraTarget,
    MetricPoint,
    NewFinetune,
    StepApplied,
)
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.image_size import ImageSize
from moontune.values.inference import InferenceRequest, InferenceResult, ModelInfo, TextDelta, Usage
from moontune.values.job import DatasetSource, Job, JobConfig, JobProgress, JobState, Preset, Schedule
from moontune.values.logprobs import DecisionScore, LogprobResult, RolloutBatch
from moontune.values.mask import PolygonMask, RleMask, SvgMask
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import CaptionOutput, DetectOutput, Grounding, PointOutput, QueryOutput, Reasoning
from moontune.values.pose import Pose
from moontune.values.request import CAPTION_LENGTHS, SkillRequest
from moontune.values.reward import (
    ParseStatus,
    RewardComponent,
    RewardInfo,
    RewardParameter,
    RewardResult,
    RewardSample,
    RewardSpec,
)
from moontune.values.reward_definition import (
    CodeLanguage,
    ContainerReward,
    JudgeReward,
    RemoteReward,
    RewardDefinition,
    UserCode,
)
from moontune.values.reward_report import GradedExample, RewardProbe, RewardReport, SampleGroup
from moontune.values.rollout import Decision, FinishReason, Head, Rollout, RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.values.sampling import SamplingSettings
from moontune.values.sandbox import SandboxLayer, SandboxProfile, SandboxStatus
from moontune.values.skill import TRAINABLE_SKILLS, Skill
from moontune.values.training import (
    Aggregation,
    HeadWeight,
    LossKind,
    ObjectOrder,
    RlGroup,
    SamplerCorrection,
    SftGroup,
    TrainSettings,
    TrainStep,
    TrainStepResult,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
unit = st.floats(0, 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**31 - 1)
sizes = st.integers(0, 2**63 - 1)
seeds = st.integers(0, 2**64 - 1)
metrics = st.dictionaries(words, numbers, max_size=3)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
seconds = st.integers(0, 10**9).map(lambda microseconds: microseconds / 1e6)
timeouts = st.integers(1, 10**6).map(lambda milliseconds: milliseconds / 1e3)
sha256s = st.binary(min_size=32, max_size=32).map(bytes.hex)
few = {"max_size": 3}


def tuples(items, **limits):
    return st.lists(items, **{**few, **limits}).map(tuple)


points = st.builds(Point, unit, unit)
corners = st.lists(unit, min_size=2, max_size=2, unique=True).map(sorted)
boxes = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), corners, corners)
spatial_refs = points | boxes
images = st.binary(min_size=1, max_size=20).map(Image.of) | sha256s.map(Image)
skills = st.sampled_from(Skill)
sampling = st.builds(
    SamplingSettings,
    temperature=st.just(0.0) | st.floats(0.01, 4),
    top_p=st.floats(0, 1, exclude_min=True),
    max_tokens=st.integers(1, 2048),
    max_objects=st.integers(1, 300),
)
requests = st.one_of(
    st.builds(
        SkillRequest,
        st.just(Skill.QUERY),
        st.none() | images,
        question=words,
        spatial_refs=tuples(spatial_refs),
        reasoning=st.booleans(),
        settings=sampling,
    ),
    st.builds(
        SkillRequest,
        st.just(Skill.POINT),
        images,
        object=words,
        spatial_refs=tuples(spatial_refs),
        settings=sampling,
    ),
    st.builds(SkillRequest, st.just(Skill.DETECT), images, object=words, settings=sampling),
    st.builds(SkillRequest, st.just(Skill.CAPTION), images, length=st.sampled_from(CAPTION_LENGTHS), settings=sampling),
)
trainable_requests = requests.filter(lambda request: request.skill in TRAINABLE_SKILLS)


@st.composite
def reasonings(draw):
    text = draw(texts)
    cut = draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2).map(sorted))
    spans = draw(tuples(st.builds(Grounding, st.just(cut[0]), st.just(cut[1]), tuples(points))))
    return Reasoning(text, spans)


outputs_by_skill = {
    Skill.QUERY: st.builds(QueryOutput, texts, st.none() | reasonings()),
    Skill.POINT: st.builds(PointOutput, tuples(points)),
    Skill.DETECT: st.builds(DetectOutput, tuples(boxes)),
    Skill.CAPTION: st.builds(CaptionOutput, texts),
}
outputs = st.one_of(*outputs_by_skill.values())
image_sizes = st.none() | st.builds(ImageSize, st.integers(1, 65535), st.integers(1, 65535))
rle_masks = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(
    lambda runs: RleMask(sum(runs) or 1, 1, (*runs, 0) if sum(runs) else (1,))
)
rings = tuples(points, min_size=3, max_size=4)
masks = st.one_of(rle_masks, st.builds(PolygonMask, tuples(rings, min_size=1)), st.just(SvgMask("M 0 0 L 1 0 L 1 1 Z")))
poses = st.builds(Pose, tuples(st.none() | points, min_size=1), st.floats(0, 1, exclude_min=True))
box_truths = st.builds(GroundTruth, boxes=tuples(boxes), image_size=image_sizes) | tuples(boxes, min_size=1).flatmap(
    lambda found: st.builds(GroundTruth, boxes=st.just(found), categories=st.tuples(*[words for _ in found]))
)
point_truths = st.builds(GroundTruth, points=tuples(points), image_size=image_sizes)
answer_truths = st.builds(GroundTruth, answers=tuples(texts))
mask_truths = st.builds(GroundTruth, masks=tuples(masks), image_size=image_sizes)
pose_truths = st.builds(GroundTruth, poses=tuples(poses), image_size=image_sizes)
truths = box_truths | point_truths | answer_truths | mask_truths | pose_truths
truths_by_skill = {
    Skill.QUERY: truths,
    Skill.POINT: box_truths | point_truths | mask_truths | pose_truths,
    Skill.DETECT: box_truths,
    Skill.CAPTION: answer_truths,
}
policies = st.builds(PolicyVersion, words, texts, texts, sizes, texts)

heads = {
    Head.TOKEN: counts,
    Head.GO: st.integers(0, 1),
    **dict.fromkeys((Head.X, Head.Y, Head.WIDTH, Head.HEIGHT), st.integers(0, 1023)),
}


@st.composite
def decisions(draw):
    head = draw(st.sampled_from(Head))
    choice = draw(heads[head])
    nucleus = None
    if head is Head.TOKEN:
        nucleus = draw(st.none() | st.sets(counts, max_size=3).map(lambda kept: tuple(sorted(kept | {choice}))))
    return Decision(head, choice, draw(st.floats(max_value=0, allow_infinity=False, width=32)), nucleus)


@st.composite
def rollouts(draw, skill=None):
    skill = skill or draw(skills)
    chosen = draw(tuples(decisions()))
    return Rollout(
        skill=skill,
        output=draw(outputs_by_skill[skill]),
        decisions=chosen,
        finish_reason=draw(st.sampled_from(FinishReason)),
        policy=draw(policies),
        seed=draw(seeds),
        temperature=draw(st.just(0.0) | st.floats(0.01, 4)),
        top_p=draw(st.floats(0, 1, exclude_min=True)),
        thinking_count=draw(st.integers(0, len(chosen))),
    )


def scored(draw, request, least):
    attempts = draw(tuples(rollouts(request.skill), min_size=least, max_size=2))
    return attempts, draw(st.tuples(*[st.none() | numbers for _ in attempts]))


@st.composite
def rollout_groups(draw):
    request = draw(requests)
    attempts, rewards = scored(draw, request, 0)
    return RolloutGroup(request, attempts, draw(st.sampled_from([(), rewards])))


@st.composite
def rl_groups(draw):
    request = draw(trainable_requests)
    target = draw(targets(request.skill)) if draw(st.integers(0, 3)) else None
    return RlGroup(request, *scored(draw, request, 1), draw(st.booleans()), target)


def targets(skill):
    kinds = {Skill.QUERY: outputs_by_skill[Skill.QUERY], Skill.POINT: box_truths | point_truths}
    return kinds.get(skill, box_truths)


@st.composite
def sft_groups(draw):
    request = draw(trainable_requests)
    return SftGroup(request, draw(targets(request.skill)))


groups = rl_groups() | sft_groups()
parameters = st.dictionaries(words, numbers | texts | st.booleans(), **few)
maybe = st.none() | numbers
components = st.builds(RewardComponent, words, numbers, st.booleans(), parameters, st.booleans(), maybe, maybe, maybe)
specs = st.builds(RewardSpec, tuples(components, min_size=1))


@st.composite
def reward_samples(draw):
    request = draw(requests)
    truth = draw(st.just(GroundTruth()) | truths_by_skill[request.skill])
    return RewardSample(request, draw(outputs_by_skill[request.skill]), truth, draw(st.none() | counts))


@st.composite
def sample_groups(draw):
    request = draw(requests)
    truth = draw(st.just(GroundTruth()) | truths_by_skill[request.skill])
    answers = draw(tuples(outputs_by_skill[request.skill], min_size=1))
    return SampleGroup(request, answers, truth, draw(st.just(()) | st.tuples(*[counts for _ in answers])))


results = st.builds(RewardResult, st.none() | numbers, metrics, st.sampled_from(ParseStatus), texts)
reward_parameters = st.one_of(
    st.builds(RewardParameter, words, st.just("number"), numbers, texts),
    st.builds(RewardParameter, words, st.just("text"), texts, texts),
    st.builds(RewardParameter, words, st.just("flag"), st.booleans(), texts),
)
reward_infos = st.builds(
    RewardInfo,
    words,
    texts,
    tuples(skills.map(str), min_size=1),
    tuples(reward_parameters),
    numbers,
    numbers,
    texts,
    tuples(words),
)
definitions = st.builds(
    RewardDefinition,
    words,
    tuples(skills, min_size=1),
    st.one_of(
        st.builds(UserCode, st.sampled_from(CodeLanguage), words),
        st.builds(ContainerReward, words, tuples(texts), timeouts),
        st.builds(RemoteReward, words, timeouts, st.integers(1, 256)),
        st.builds(JudgeReward, words, words, texts, st.booleans(), timeouts, st.integers(1, 256)),
    ),
    texts,
)
reports = st.builds(
    RewardReport,
    counts,
    unit,
    unit,
    st.none() | numbers,
    st.none() | numbers,
    unit,
    seconds,
    tuples(texts),
    tuples(st.builds(GradedExample, counts, counts, results)),
    tuples(st.builds(RewardProbe, words, texts, st.none() | numbers)),
)
sandboxes = st.builds(
    SandboxStatus,
    st.sampled_from(SandboxProfile),
    st.booleans(),
    tuples(st.builds(SandboxLayer, texts, st.booleans(), st.booleans(), texts)),
    tuples(texts),
)
loras = st.builds(
    LoraSettings,
    st.integers(1, 256),
    st.none() | st.floats(0, 4096, exclude_min=True),
    st.lists(st.sampled_from(LoraTarget), min_size=1, unique=True).map(tuple),
    seeds,
    st.sampled_from(AttentionWiring),
)
kinds = st.sampled_from(FinetuneKind)
finetunes = st.builds(Finetune, words, words, words, words, texts, loras, sizes, texts, moments, moments, kinds)
new_finetunes = st.builds(
    NewFinetune, words, words, texts, loras, kinds, st.none() | st.builds(BranchPoint, words, sizes)
)
checkpoints = st.builds(Checkpoint, words, words, sizes, texts, sizes, moments, st.none() | moments, metrics)
checkpoint_refs = st.builds(CheckpointRef, words, sizes) | st.builds(CheckpointRef, words, st.none(), words)
metric_names = st.text("abcXYZ019_/-", min_size=1, max_size=12)
metric_points = st.builds(MetricPoint, sizes, metric_names, numbers, moments)
steps_applied = st.builds(StepApplied, st.integers(1, 2**63 - 1), texts, moments, metrics)
finetune_events = finetunes | steps_applied | checkpoints | metric_points
train_settings = st.builds(
    TrainSettings,
    loss=st.sampled_from(LossKind),
    learning_rate=unit,
    clip_low=unit,
    clip_high=st.floats(0, 10),
    kl_weight=st.floats(0, 100),
    entropy_weight=st.floats(0, 100),
    normalise_std=st.booleans(),
    max_grad_norm=st.floats(1e-6, 1e6),
    weight_decay=unit,
    beta1=st.floats(0, 0.9999),
    beta2=st.floats(0, 0.99999),
    correction=st.sampled_from(SamplerCorrection),
    mask_band=st.floats(1, 1e4),
    max_staleness_steps=st.integers(0, 10_000),
    sft_weight=st.floats(0, 100),
    passes=st.integers(1, 16),
    dual_clip=st.none() | st.floats(1, 1e4),
    aggregation=st.none() | st.sampled_from(Aggregation),
    entropy_heads=st.lists(st.sampled_from(Head), unique=True).flatmap(
        lambda heads: st.tuples(*(st.builds(HeadWeight, st.just(head), st.floats(0, 100)) for head in heads))
    ),
    mask_truncated=st.booleans(),
    overlong_positions=st.integers(0, 2048),
    overlong_penalty=st.floats(0, 1e6),
    object_order=st.sampled_from(ObjectOrder),
    ground_truth_reward=st.none() | st.floats(-1e9, 1e9),
    epsilon=st.floats(1e-15, 1),
)
train_steps = st.builds(
    TrainStep,
    words,
    words,
    tuples(groups, min_size=1, max_size=2),
    train_settings,
    st.none() | sizes,
    st.none() | st.binary(max_size=20),
)
train_results = st.builds(TrainStepResult, sizes, st.booleans(), texts, texts, metrics, st.booleans())
float32s = st.floats(allow_nan=False, allow_infinity=False, width=32)
logprob_results = st.builds(LogprobResult, tuples(tuples(st.builds(DecisionScore, float32s, float32s))), policies)


@st.composite
def rollout_batches(draw):
    request = draw(requests)
    return RolloutBatch(request, draw(tuples(rollouts(request.skill), min_size=1, max_size=2)))


@st.composite
def rollout_orders(draw):
    request = draw(trainable_requests)
    truth = draw(st.none() | truths_by_skill[request.skill])
    return RolloutOrder(
        model=draw(words),
        request=request,
        rollout_count=draw(st.integers(1, 64)),
        seed=draw(st.none() | seeds),
        ground_truth=truth,
        reward=None if truth is None else draw(st.none() | specs),
        max_staleness_steps=draw(counts),
    )


adapter_statuses = st.builds(
    AdapterStatus, policies, st.sampled_from(AdapterState), sizes, st.booleans(), counts, st.none() | moments
)
engine_statuses = st.builds(
    EngineStatus,
    words,
    texts,
    texts,
    counts,
    counts,
    counts,
    sizes,
    sizes,
    tuples(st.builds(CacheStatus, words, sizes, sizes, sizes, sizes, sizes)),
    tuples(adapter_statuses),
    st.builds(EngineWork, *[sizes] * 8, seconds),
)
files = st.builds(BundleFile, words, sizes, sha256s)
file_lists = st.lists(files, min_size=1, max_size=3, unique_by=lambda file: file.name).map(tuple)
manifests = st.builds(AdapterManifest, policies, loras, file_lists, kinds)
chunks = st.builds(FileChunk, words, st.binary(min_size=1, max_size=20))
imports = st.builds(
    AdapterImport,
    words,
    words,
    st.sampled_from(ImportKind),
    file_lists,
    texts,
    st.none() | st.floats(0, 4096, exclude_min=True),
)
exports = st.builds(ExportManifest, policies, st.sampled_from(ExportKind), file_lists)


def inference_requests(skill):
    return st.builds(
        InferenceRequest, words, requests.filter(lambda request: request.skill is skill), st.none() | seeds
    )


def answers(skill):
    usage = st.builds(Usage, counts, counts, seconds, seconds, seconds)
    return st.builds(InferenceResult, outputs_by_skill[skill], policies, st.sampled_from(FinishReason), usage)


deltas = st.builds(TextDelta, words, st.booleans())
model_infos = st.builds(ModelInfo, words, policies, tuples(skills), st.none() | moments)
sources = st.builds(DatasetSource, texts, texts, texts)
positive = st.integers(1, 2**31 - 1)
job_configs = st.builds(
    JobConfig,
    name=words,
    skill=skills,
    train=sources,
    held_out=sources,
    reward=specs,
    steps=positive,
    lora=loras,
    settings=train_settings,
    sampling=sampling,
    groups_per_step=positive,
    rollouts_per_group=positive,
    schedule=st.sampled_from(Schedule),
    warmup_steps=counts,
    evaluate_every=counts,
    seed=seeds,
    shuffle_rewards=st.booleans(),
)
jobs = st.builds(
    Job, words, words, job_configs, st.sampled_from(JobState), sizes, moments, moments, texts, texts, texts, metrics
)
progresses = st.builds(JobProgress, positive, sizes, sizes, words, texts, metrics, moments)
presets = st.builds(Preset, words, texts, job_configs)
formats = st.none() | st.sampled_from(DatasetFormat)
problems = st.builds(DatasetProblem, words, texts, st.none() | sizes)
datasets = st.builds(
    StoredDataset,
    words,
    words,
    words,
    st.sampled_from(DatasetState),
    sizes,
    sizes,
    moments,
    formats,
    texts,
    st.none() | sizes,
    tuples(problems),
)
uploads = st.builds(DatasetUpload, words, words, st.integers(1, 2**63 - 1), formats, st.just("") | sha256s, sizes)
