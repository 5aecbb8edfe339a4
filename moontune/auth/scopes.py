"""The scope that each rpc needs; an rpc that is not listed needs ADMIN, so a forgotten one is closed, not open."""

from collections.abc import Mapping

from moontune.errors import PermissionDenied
from moontune.values.principal import Principal, Scope

PUBLIC_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Answered to anyone: probes have no keys, and the answer says nothing but up or down."""

REFLECTION_SERVICES = frozenset({"grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"})

_BY_SCOPE: Mapping[Scope, str] = {
    Scope.READ: """
        RolloutService/GetEngineStatus RewardService/ListRewards RewardService/GetSandboxStatus
        TrainerService/GetFinetune TrainerService/ListFinetunes TrainerService/ListMetrics
        TrainerService/ListCheckpoints TrainerService/GetCheckpoint TrainerService/WatchFinetune
        InferenceService/ListModels InferenceService/GetAdapterStatus
        JobService/GetJob JobService/ListJobs JobService/WatchJob JobService/ListPresets
        DatasetService/GetDataset DatasetService/ListDatasets
    """,
    Scope.INFER: """
        InferenceService/Query InferenceService/Point InferenceService/Detect InferenceService/Caption
        InferenceService/StreamQuery InferenceService/StreamPoint InferenceService/StreamDetect
        InferenceService/StreamCaption InferenceService/LoadAdapter InferenceService/UnloadAdapter
    """,
    Scope.TRAIN: """
        RolloutService/GenerateRollouts RolloutService/StreamRollouts
        RewardService/Score RewardService/ScoreStream RewardService/ValidateReward RewardService/RegisterReward
        RewardPluginService/DescribeReward RewardPluginService/ScoreSamples
        TrainerService/CreateFinetune TrainerService/DeleteFinetune TrainerService/TrainStep
        TrainerService/ComputeLogprobs TrainerService/LogMetrics TrainerService/SaveCheckpoint
        TrainerService/DeleteCheckpoint TrainerService/RestoreCheckpoint TrainerService/DownloadAdapter
        TrainerService/ImportAdapter TrainerService/ExportCheckpoint
        JobService/CreateJob JobService/CancelJob JobService/PauseJob JobService/ResumeJob
        DatasetService/UploadDataset DatasetService/DeleteDataset
    """,
}

SCOPE_OF: Mapping[str, Scope] = {name: scope for scope, names in _BY_SCOPE.items() for name in names.split()}
"""`<Service>/<Rpc>` (without the package) -> the scope it needs."""


def required_scope(path: str) -> Scope:
    """The scope that an rpc needs; `path` is "/package.Service/Method"."""
    service, _, method = path.lstrip("/").rpartition("/")
    if service in REFLECTION_SERVICES:
        return Scope.READ
    return SCOPE_OF.get(f"{service.rpartition('.')[2]}/{method}", Scope.ADMIN)


def require(principal: Principal, path: str) -> None:
    """Raise PermissionDenied unless the caller holds the rpc's scope; ADMIN holds every scope."""
    needed = required_scope(path)
    if needed in principal.scopes or Scope.ADMIN in principal.scopes:
        return
    held = ", ".join(sorted(principal.scopes)) or "none"
    raise PermissionDenied(f"{path} needs the scope {needed}; this key holds: {held}", metadata={"scope": needed})
