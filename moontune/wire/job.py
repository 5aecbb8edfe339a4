"""Jobs: configs, states, history."""

from moontune.api.jobs.v1 import job_pb2, job_service_pb2
from moontune.errors import InvalidField
from moontune.values.job import DatasetSource, Job, JobConfig, JobEvent, JobProgress, JobState, Preset, Schedule
from moontune.values.sampling import rollout_defaults
from moontune.wire.checks import EnumMap, at_least, encodes, finite_map, required, resource_name, text
from moontune.wire.finetune import lora_from_proto, lora_to_proto
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto
from moontune.wire.reward import reward_spec_from_proto, reward_spec_to_proto
from moontune.wire.sampling import sampling_from_proto, sampling_to_proto
from moontune.wire.skill import skill_from_proto, skill_to_proto
from moontune.wire.train_settings import train_settings_from_proto, train_settings_to_proto

JOB_STATES = EnumMap(
    {
        JobState.QUEUED: job_pb2.JOB_STATE_QUEUED,
        JobState.VALIDATING: job_pb2.JOB_STATE_VALIDATING,
        JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
        JobState.PAUSED: job_pb2.JOB_STATE_PAUSED,
        JobState.CANCELLING: job_pb2.JOB_STATE_CANCELLING,
        JobState.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
        JobState.SUCCEEDED: job_pb2.JOB_STATE_SUCCEEDED,
        JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    }
)
SCHEDULES = EnumMap(
    {
        Schedule.CONSTANT: job_pb2.SCHEDULE_CONSTANT,
        Schedule.LINEAR: job_pb2.SCHEDULE_LINEAR,
    }
)


@encodes("config")
def job_config_to_proto(config: JobConfig) -> job_pb2.JobConfig:
    """The message, with every field set."""
    return job_pb2.JobConfig(
        name=config.name,
        skill=skill_to_proto(config.skill),
        train=_source_to_proto(config.train),
        held_out=_source_to_proto(config.held_out),
        reward=reward_spec_to_proto(config.reward),
        steps=config.steps,
        lora=lora_to_proto(config.lora),
        settings=train_settings_to_proto(config.settings),
        sampling=sampling_to_proto(config.sampling),
        groups_per_step=config.groups_per_step,
        rollouts_per_group=config.rollouts_per_group,
        schedule=SCHEDULES.encode(config.schedule),
        warmup_steps=config.warmup_steps,
        evaluate_every=config.evaluate_every,
        seed=config.seed,
        shuffle_rewards=config.shuffle_rewards,
    )


def job_config_from_proto(message: job_pb2.JobConfig, field: str = "config") -> JobConfig:
    """The value; counts are 0 or more here, their own ranges and the data are checked by the jobs service."""
    for name in ("train", "held_out", "reward"):
        required(message.HasField(name), f"{field}.{name}", "a dataset source" if name != "reward" else "a reward")
    skill = skill_from_proto(message.skill, f"{field}.skill")
    groups = message.groups_per_step if message.HasField("groups_per_step") else 8
    rollouts = message.rollouts_per_group if message.HasField("rollouts_per_group") else 8
    warmup_steps = message.warmup_steps if message.HasField("warmup_steps") else 10
    return JobConfig(
        name=resource_name(message.name, f"{field}.name"),
        skill=skill,
        train=_source_from_proto(message.train),
        held_out=_source_from_proto(message.held_out),
        reward=reward_spec_from_proto(message.reward, f"{field}.reward"),
        steps=at_least(message.steps, 1, f"{field}.steps"),
        lora=lora_from_proto(message.lora, f"{field}.lora"),
        settings=train_settings_from_proto(message.settings, f"{field}.settings"),
        sampling=sampling_from_proto(message.sampling, rollout_defaults(skill), f"{field}.sampling"),
        groups_per_step=at_least(groups, 1, f"{field}.groups_per_step"),
        rollouts_per_group=at_least(rollouts, 1, f"{field}.rollouts_per_group"),
        schedule=SCHEDULES.decode_or(message.schedule, f"{field}.schedule", Schedule.LINEAR),
        warmup_steps=at_least(warmup_steps, 0, f"{field}.warmup_steps"),
        evaluate_every=at_least(message.evaluate_every, 0, f"{field}.evaluate_every"),
        seed=message.seed,
        shuffle_rewards=message.shuffle_rewards,
    )


def _source_to_proto(source: DatasetSource) -> job_pb2.DatasetSource:
    return job_pb2.DatasetSource(path=source.path, object=source.object, category=source.category)


def _source_from_proto(message: job_pb2.DatasetSource) -> DatasetSource:
    return DatasetSource(message.path, message.object, message.category)


@encodes("job")
def job_to_proto(job: Job) -> job_pb2.Job:
    """The message."""
    return job_pb2.Job(
        id=job.id,
        organisation=job.organisation,
        config=job_config_to_proto(job.config),
        state=JOB_STATES.encode(job.state),
        step=job.step,
        created_at=timestamp_to_proto(job.created_at),
        updated_at=timestamp_to_proto(job.updated_at),
        finetune_id=job.finetune_id,
        model=job.model,
        detail=job.detail,
        results=job.results,
    )


def job_from_proto(message: job_pb2.Job, field: str = "job") -> Job:
    """The value."""
    required(message.HasField("config"), f"{field}.config", "a config")
    required(message.HasField("created_at"), f"{field}.created_at", "a time")
    required(message.HasField("updated_at"), f"{field}.updated_at", "a time")
    return Job(
        id=text(message.id, f"{field}.id"),
        organisation=text(message.organisation, f"{field}.organisation"),
        config=job_config_from_proto(message.config, f"{field}.config"),
        state=JOB_STATES.decode(message.state, f"{field}.state"),
        step=at_least(message.step, 0, f"{field}.step"),
        created_at=timestamp_from_proto(message.created_at, f"{field}.created_at"),
        updated_at=timestamp_from_proto(message.updated_at, f"{field}.updated_at"),
        finetune_id=message.finetune_id,
        model=message.model,
        detail=message.detail,
        results=finite_map(message.results, f"{field}.results"),
    )


@encodes("progress")
def job_progress_to_proto(progress: JobProgress) -> job_pb2.JobProgress:
    """The message."""
    return job_pb2.JobProgress(
        sequence=progress.sequence,
        step=progress.step,
        total_steps=progress.total_steps,
        stage=progress.stage,
        message=progress.message,
        metrics=progress.metrics,
        logged_at=timestamp_to_proto(progress.logged_at),
    )


def job_progress_from_proto(message: job_pb2.JobProgress, field: str = "progress") -> JobProgress:
    """The value."""
    required(message.HasField("logged_at"), f"{field}.logged_at", "a time")
    return JobProgress(
        sequence=at_least(message.sequence, 1, f"{field}.sequence"),
        step=at_least(message.step, 0, f"{field}.step"),
        total_steps=at_least(message.total_steps, 0, f"{field}.total_steps"),
        stage=text(message.stage, f"{field}.stage"),
        message=message.message,
        metrics=finite_map(message.metrics, f"{field}.metrics"),
        logged_at=timestamp_from_proto(message.logged_at, f"{field}.logged_at"),
    )


def job_event_to_proto(event: JobEvent) -> job_service_pb2.WatchJobResponse:
    """The message of WatchJob."""
    if isinstance(event, Job):
        return job_service_pb2.WatchJobResponse(job=job_to_proto(event))
    return job_service_pb2.WatchJobResponse(progress=job_progress_to_proto(event))


def job_event_from_proto(message: job_service_pb2.WatchJobResponse, field: str = "event") -> JobEvent:
    """The value."""
    match message.WhichOneof("event"):
        case "job":
            return job_from_proto(message.job, f"{field}.job")
        case "progress":
            return job_progress_from_proto(message.progress, f"{field}.progress")
        case None:
            raise InvalidField.of(field, None, "job or progress")


@encodes("preset")
def preset_to_proto(preset: Preset) -> job_pb2.Preset:
    """The message."""
    config = job_config_to_proto(preset.config)
    return job_pb2.Preset(name=preset.name, description=preset.description, config=config)


def preset_from_proto(message: job_pb2.Preset, field: str = "preset") -> Preset:
    """The value."""
    required(message.HasField("config"), f"{field}.config", "a config")
    config = job_config_from_proto(message.config, f"{field}.config")
    return Preset(text(message.name, f"{field}.name"), message.description, config)
