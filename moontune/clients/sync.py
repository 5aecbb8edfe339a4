"""The sync form of every client: the async method's name, signature and meaning, through the one bridge."""

from moontune.clients.blocking import Blocking, BlockingStream, SyncClient
from moontune.clients.inference import InferenceClient
from moontune.clients.jobs import DatasetClient, JobClient
from moontune.clients.reward import RewardClient
from moontune.clients.rollout import RolloutClient
from moontune.clients.trainer import TrainerClient


class SyncRolloutClient(SyncClient[RolloutClient]):
    """Sync client of RolloutService."""

    client_class = RolloutClient
    generate = Blocking(RolloutClient.generate)
    stream = BlockingStream(RolloutClient.stream)
    engine_status = Blocking(RolloutClient.engine_status)


class SyncRewardClient(SyncClient[RewardClient]):
    """Sync client of RewardService."""

    client_class = RewardClient
    score = Blocking(RewardClient.score)
    list_rewards = Blocking(RewardClient.list_rewards)
    validate = Blocking(RewardClient.validate)
    register = Blocking(RewardClient.register)
    sandbox_status = Blocking(RewardClient.sandbox_status)


class SyncTrainerClient(SyncClient[TrainerClient]):
    """Sync client of TrainerService."""

    client_class = TrainerClient
    create_finetune = Blocking(TrainerClient.create_finetune)
    get_finetune = Blocking(TrainerClient.get_finetune)
    list_finetunes = Blocking(TrainerClient.list_finetunes)
    delete_finetune = Blocking(TrainerClient.delete_finetune)
    train_step = Blocking(TrainerClient.train_step)
    compute_logprobs = Blocking(TrainerClient.compute_logprobs)
    log_metrics = Blocking(TrainerClient.log_metrics)
    list_metrics = Blocking(TrainerClient.list_metrics)
    save_checkpoint = Blocking(TrainerClient.save_checkpoint)
    list_checkpoints = Blocking(TrainerClient.list_checkpoints)
    get_checkpoint = Blocking(TrainerClient.get_checkpoint)
    delete_checkpoint = Blocking(TrainerClient.delete_checkpoint)
    restore_checkpoint = Blocking(TrainerClient.restore_checkpoint)
    download_adapter = Blocking(TrainerClient.download_adapter)
    import_adapter = Blocking(TrainerClient.import_adapter)
    export_checkpoint = Blocking(TrainerClient.export_checkpoint)
    watch_finetune = BlockingStream(TrainerClient.watch_finetune)


class SyncInferenceClient(SyncClient[InferenceClient]):
    """Sync client of InferenceService."""

    client_class = InferenceClient
    answer = Blocking(InferenceClient.answer)
    stream = BlockingStream(InferenceClient.stream)
    list_models = Blocking(InferenceClient.list_models)
    load_adapter = Blocking(InferenceClient.load_adapter)
    unload_adapter = Blocking(InferenceClient.unload_adapter)
    adapter_status = Blocking(InferenceClient.adapter_status)


class SyncJobClient(SyncClient[JobClient]):
    """Sync client of JobService."""

    client_class = JobClient
    create_job = Blocking(JobClient.create_job)
    get_job = Blocking(JobClient.get_job)
    list_jobs = Blocking(JobClient.list_jobs)
    cancel_job = Blocking(JobClient.cancel_job)
    pause_job = Blocking(JobClient.pause_job)
    resume_job = Blocking(JobClient.resume_job)
    watch_job = BlockingStream(JobClient.watch_job)
    list_presets = Blocking(JobClient.list_presets)


class SyncDatasetClient(SyncClient[DatasetClient]):
    """Sync client of DatasetService."""

    client_class = DatasetClient
    upload = Blocking(DatasetClient.upload)
    get_dataset = Blocking(DatasetClient.get_dataset)
    list_datasets = Blocking(DatasetClient.list_datasets)
    delete_dataset = Blocking(DatasetClient.delete_dataset)
