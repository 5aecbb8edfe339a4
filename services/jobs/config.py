"""Settings of the jobs service. Environment prefix MOONTUNE_JOBS_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from moontune.serving.settings import ServiceSettings


class JobsSettings(ServiceSettings):
    """Where to listen, where the services that the loop calls are, and where jobs are kept."""

    prefix: ClassVar[str] = "MOONTUNE_JOBS_"

    port: int = Field(7055, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    rollout_address: str = Field("127.0.0.1:7051", description="host:port of the rollout service.")
    reward_address: str = Field("127.0.0.1:7052", description="host:port of the reward service.")
    trainer_address: str = Field("127.0.0.1:7053", description="host:port of the trainer service.")
    services_ca: Path | None = Field(None, description="PEM roots of the services' certificates; unset: plaintext.")
    database: str = Field("sqlite:///jobs.db", description="SQLAlchemy URL of the jobs and their history.")
    data_dir: Path = Field(Path("jobs"), description="Folder of imported data sets and held-out answers.")
    dataset_roots: list[Path] = Field(
        default_factory=list[Path], description="Folders that data sets may be read from; empty: any, on loopback only."
    )
    running_max: int = Field(1, ge=1, le=64, description="Jobs that run at a time.")
    patience_s: float = Field(600.0, ge=0, description="How long a job waits for a service that is away.")
    step_timeout_s: float = Field(3600.0, gt=0, description="Longest train step.")
    rollout_timeout_s: float = Field(600.0, gt=0, description="Longest generation of one group.")
